"""Exception for errors that the user can fix; entry points exit with status 2."""

EXIT_USER_ERROR = 2
EXIT_SAVED_START_AGAIN = 75


class UserError(Exception):
    """Invalid input: `message` names the file, line or key, `remedy` the fix."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # By default, exceptions with keyword arguments cannot be unpickled in another process.
        return (_rebuild, (self.message, self.remedy))


def _rebuild(message: str, remedy: str) -> UserError:
    return UserError(message, remedy=remedy)
