"""The errors that a user may see: each is one line that says what was given and what to do."""

MOST_COMPLAINTS = 5


class TuneGanError(Exception):
    """The work could not be done; the command line prints the message and exits with 1."""

    exit_code = 1


class InputError(TuneGanError, ValueError):
    """The input was wrong; the command line prints the message and exits with 2."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration or sweep specification holds an unknown field or an invalid value."""


class FieldError(ConfigError):
    """A configuration error that knows the field of each of its complaints.

    Args:
        complaints: Pairs of a field's dotted path, empty for the whole, and what is wrong with it.
    """

    def __init__(self, complaints: list[tuple[str, str]]) -> None:
        texts = [f"{path}: {text}" if path else text for path, text in complaints[:MOST_COMPLAINTS]]
        others = len(complaints) - len(texts)
        super().__init__("; ".join([*texts, f"and {others} others"] if others else texts))
        self.complaints = complaints


class DataError(InputError):
    """A data set is missing, truncated or does not fit the configuration."""


class CheckpointError(InputError):
    """A checkpoint is missing, damaged or belongs to another configuration."""


class RunFolderError(InputError):
    """A run folder is missing, is no run folder, or is already taken."""


class IncomparableError(InputError):
    """Scores that were measured with different instruments were to be compared."""


class SweepFailedError(TuneGanError):
    """A sweep ended without a single trial that could be ranked."""


class StorageError(TuneGanError):
    """A file cannot be written or read: the disk is full, or the folder is read-only or gone."""
