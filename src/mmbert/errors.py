"""The one exception for what the user can mend; entry points turn it into exit status 2."""

EXIT_USER_ERROR = 2
EXIT_SAVED_START_AGAIN = 75


class UserError(Exception):
    """The user's input is wrong: `message` names the file, line or key, `remedy` what to do."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not survive pickling between processes by default.
        return (_rebuild, (self.message, self.remedy))


def _rebuild(message: str, remedy: str) -> UserError:
    return UserError(message, remedy=remedy)
