"""Starts a command: flags, one-line errors, exit codes."""

import sys
from collections.abc import Callable

from absl import app, flags, logging

from mrc_jax.errors import DataError, MrcError, UsageError


def run(main: Callable[[list[str]], None]) -> None:
    """Parses the flags and calls `main` with what is left of the arguments.

    A user's mistake ends with one line on standard error and the error's exit code.
    """

    def guarded(argv: list[str]) -> None:
        logging.set_verbosity(logging.WARNING)  # TFDS tells of every file that it opens
        try:
            main(argv)
        except MrcError as error:
            _fail(error)
        except OSError as error:
            _fail(DataError(" ".join(str(error).split())))

    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        getattr(getattr(flags.FLAGS, "config", None), "name", None)
        return rest
    except OSError as error:  # ml_collections tells of a missing file when the config is used
        reason = str(error.__cause__ or error).splitlines()[-1].split("] ")[-1]
        _fail(UsageError(f"cannot read the config ({reason}); give the path of one, see configs/"))
        raise
    except (flags.Error, AttributeError, SyntaxError, TypeError, ValueError) as error:
        # what ml_collections raises for an unknown field, and for a config that cannot be read
        text = str(error).replace("\\n", "; ").replace("\\'", "'").strip("'\"")
        _fail(UsageError(f"a flag or config field is wrong: {' '.join(text.split())}"))
        raise


def _fail(error: MrcError) -> None:
    name = sys.modules["__main__"].__spec__
    print(f"{name.name if name else sys.argv[0]}: error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
