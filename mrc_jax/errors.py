"""The errors that a user can meet, each with the exit code of its command (0 done is not here)."""


class MrcError(Exception):
    """Any error that mrc_jax raises on purpose; its text is one line: what is wrong and what to
    do.
    """

    exit_code = 1


class DataError(MrcError):
    """Input or output that cannot be read or written (exit code 1)."""

    exit_code = 1


class UsageError(MrcError):
    """A call, a field or a size that cannot be (exit code 2)."""

    exit_code = 2


class NumericsError(MrcError):
    """A loss that is not finite, or a KL budget that was not reached (exit code 3)."""

    exit_code = 3


class BusyError(MrcError):
    """A work directory that another process holds (exit code 4)."""

    exit_code = 4


class FormatError(MrcError):
    """A file that is not a valid .mrc file (exit code 5)."""

    exit_code = 5
