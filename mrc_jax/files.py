"""Files on a disk: read within bounds, written whole or not at all."""

import contextlib
import errno
import os
import pathlib
import tempfile

from mrc_jax.errors import DataError, FormatError

MAX_FILE_BYTES = 1 << 32


def read(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes; DataError where it cannot be read, FormatError where it is too large."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise FormatError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: cannot read it ({error.strerror})") from None


def unwritable(
    path: str | os.PathLike[str], error: OSError | ValueError, what: str = "it"
) -> DataError:
    """The error for what could not be written, with its remedy."""
    code = getattr(error, "errno", None)
    reason = os.strerror(code) if code else " ".join(str(error).split())
    full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "free space" if full else "allow it, or give another place,"
    return DataError(f"{path}: cannot write {what} ({reason}); {remedy} and run the command again")


def write(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file atomically and durably: after an error the old file, or none, is there."""
    target = pathlib.Path(path)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".", delete=False) as file:
            temporary = pathlib.Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        temporary = None
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise unwritable(path, error) from None
    finally:  # also when a signal interrupts it
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
