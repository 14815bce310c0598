"""Exit statuses of the programs, and the exceptions for errors that the user can fix.

Imports nothing outside the standard library, because `mmbert.wheels` runs on a bare interpreter.
`mmbert.error_kinds` explains each kind with an example.
"""

EXIT_FAILURE = 1
"""Unexpected error, or a hang ended by the watchdog."""
EXIT_USER_ERROR = 2
"""Invalid input (`UserError`)."""
EXIT_SAVED_START_AGAIN = 75
"""Stopped early after saving a checkpoint; the same command resumes."""


class UserError(Exception):
    """Error that the user can fix: `message` names the file, line or key, `remedy` the fix.

    Raise one of its subclasses, the kinds.
    """

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  → {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # By default, exceptions with keyword arguments cannot be unpickled in another process.
        return (_rebuild, (type(self), self.message, self.remedy))


class ArgumentError(UserError):
    """A command-line argument is invalid, missing, or does not fit the others."""


class RecipeError(UserError):
    """A recipe or an override is missing, invalid or inconsistent."""


class TextError(UserError):
    """Input text is missing, unreadable, without a language, or too little."""


class TokenizerError(UserError):
    """A tokenizer is unusable, or differs from the one that shards or model were made with."""


class ShardsError(UserError):
    """Shards are missing, unfinished or damaged, lack an index, or differ between nodes."""


class SamplingError(UserError):
    """The shards lack text that a phase of the recipe samples."""


class LauncherError(UserError):
    """The launched processes contradict each other, or their number does not fit the recipe."""


class DeviceError(UserError):
    """The device, or the implementations on it, cannot run the recipe."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or of another format."""


class ResumeError(UserError):
    """The output folder holds work on other data or settings, which cannot be continued."""


class ModelError(UserError):
    """A model is missing or damaged, or does not fit this encoder, the recipe or another model."""


class OutputError(UserError):
    """An output exists, is in use, or cannot be written."""


class EvaluationDataError(UserError):
    """Evaluation data is missing, malformed or inconsistent."""


class PackageError(UserError):
    """A Python package is missing, differs between nodes, or cannot be collected or installed."""


class DivergenceError(UserError):
    """Losses or gradients are not finite."""


def _rebuild(kind: type[UserError], message: str, remedy: str) -> UserError:
    return kind(message, remedy=remedy)
