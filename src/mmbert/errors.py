"""Exit statuses of the programs, and the exception for errors that the user can fix."""

EXIT_FAILURE = 1
"""Unexpected error, or a hang ended by the watchdog."""
EXIT_USER_ERROR = 2
"""Invalid input (`UserError`)."""
EXIT_SAVED_START_AGAIN = 75
"""Stopped early after saving a checkpoint; the same command resumes."""


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
