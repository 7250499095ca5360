"""The command `mrc-jax`: decode, inspect and verify, which need NumPy alone, encode and env."""

import argparse
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import numpy as np

import mrc_jax
from mrc_jax import description, export, files, manifest
from mrc_jax.decode import (
    MAX_PARAMETERS,
    File,
    builtin_manifests,
    expand,
    find_manifest,
    weights_sha256,
)
from mrc_jax.decode import (
    parsed as parsed_file,
)
from mrc_jax.errors import DataError, FormatError, MrcError, UsageError
from mrc_jax.manifest import Manifest
from mrc_jax.recipe import SELECTIONS

_PACKAGES = ("numpy", "jax", "jaxlib", "flax", "optax", "chex", "orbax-checkpoint", "safetensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0, or that of the error printed on one line."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # paths of tensors may be any text
    try:
        args = _parser().parse_args(argv)
        args.run(args)
        sys.stdout.flush()
        return 0
    except MrcError as error:
        return _fail(str(error), error.exit_code)
    except ImportError as error:
        name = error.name or "a package"
        return _fail(f"this needs {name}: pip install 'mrc_jax[train]'", UsageError.exit_code)
    except MemoryError:
        return _fail("not enough memory for this network", DataError.exit_code)
    except OSError as error:  # of standard output; files raise DataError
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _fail(f"cannot write the output ({error.strerror})", DataError.exit_code)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)


def _fail(message: str, code: int) -> int:
    print(f"mrc-jax: error: {' '.join(message.splitlines())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mrc-jax",
        description="Networks compressed by minimal random coding: .mrc files to weights and back.",
        epilog="example: mrc-jax decode model.mrc -o weights.npz",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mrc-jax {mrc_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for name, (run, what, example) in _COMMANDS.items():
        add = commands.add_parser(
            name, help=what, description=what, epilog=f"example: {example}", allow_abbrev=False
        ).add_argument
        commands.choices[name].set_defaults(run=run)
        if name == "encode":
            add("checkpoint", metavar="CHECKPOINT", help="a run's work directory")
            add("--selection", choices=SELECTIONS, help="of indices (default: the run's)")
        elif name != "env":
            add("file", metavar="FILE", help="the .mrc file")
            add("--manifest", metavar="M", help="its manifest, where it has none inside")
        if name in ("decode", "encode"):
            kind = " or ".join(export.SUFFIXES) if name == "decode" else "the .mrc file"
            add("-o", "--output", required=True, metavar="OUT", help=kind)
        else:
            add("--json", action="store_true", help="print JSON")
        if name in ("decode", "verify"):
            more = "refuse to decode a network of more parameters (default: %(default)s)"
            add("--max_parameters", type=_positive, default=MAX_PARAMETERS, metavar="N", help=more)
        if name == "verify":
            add("--report", metavar="R", help="report.json: decode, and compare with it")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


@contextlib.contextmanager
def _naming(path: str) -> Iterator[None]:
    """Puts the file's name into the messages of its FormatErrors."""
    try:
        yield
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def _load(args: argparse.Namespace) -> tuple[bytes, File, Manifest | None, str]:
    """The file's bytes, its parts, its manifest where one is known, and where that was found."""
    data, supplied = files.read(args.file), None
    with _naming(args.file):
        parsed = parsed_file(data)
    if args.manifest is not None:
        supplied = files.read(args.manifest)
        with _naming(args.manifest):
            manifest.parse(supplied)
    header, place = parsed.header, "none"
    if supplied is not None:
        place = "supplied"
    elif header.manifest is not None:
        place = "embedded"
    elif header.fingerprint in {manifest.parse(m).fingerprint for m in builtin_manifests()}:
        place = "built-in"
    with _naming(args.file):
        found = None if place == "none" else find_manifest(header, supplied)
    return data, parsed, found, place


def _weights(
    args: argparse.Namespace, parsed: File, found: Manifest | None
) -> dict[str, np.ndarray]:
    with _naming(args.file):
        return expand(parsed, found or find_manifest(parsed.header), args.max_parameters)


def _decode(args: argparse.Namespace) -> None:
    save = export.writer(args.output)
    _, parsed, found, _ = _load(args)
    weights = _weights(args, parsed, found)
    files.write(args.output, save(weights))
    count = sum(array.size for array in weights.values())
    digest = weights_sha256(weights)
    print(f"{args.output}: {len(weights)} tensors, {count} parameters, weights' SHA-256 {digest}")


def _inspect(args: argparse.Namespace) -> None:
    data, parsed, found, place = _load(args)
    described = description.facts(parsed, found, data)
    facts = {**described, "manifest": place, "file_bytes": len(data)}
    print(json.dumps(facts, indent=1) if args.json else description.text(facts))


def _verify(args: argparse.Namespace) -> None:
    data, parsed, found, place = _load(args)
    facts = {"file_bytes": len(data), "manifest": place, "weights_sha256": None}
    if args.report is not None:
        wanted = _report(args.report)
        digest = weights_sha256(_weights(args, parsed, found))
        facts["weights_sha256"] = digest
        for name, value in (("file_bytes", len(data)), ("weights_sha256", digest)):
            if wanted[name] != value:
                raise FormatError(
                    f"{args.file}: its {name} is {value}, but {args.report} has {wanted[name]!r}"
                )
    if args.json:
        print(json.dumps({"file": args.file, **facts}, indent=1))
        return
    checked = "the weights are the report's" if args.report else "checksum and structure are sound"
    print(f"{args.file}: {len(data)} bytes, {checked}")


def _report(path: str) -> dict[str, Any]:
    try:
        report = json.loads(files.read(path))
    except (ValueError, RecursionError):
        raise DataError(f"{path}: is not JSON") from None
    if not isinstance(report, dict) or not {"file_bytes", "weights_sha256"} <= report.keys():
        raise DataError(f"{path}: has no file_bytes and weights_sha256, so it is not a report")
    return report


def _encode(args: argparse.Namespace) -> None:
    from mrc_jax import checkpoint

    def warn(message: Warning | str, *_: Any) -> None:
        print(f"mrc-jax: warning: {' '.join(str(message).splitlines())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = warn
        data = checkpoint.encode(args.checkpoint, args.selection)
    files.write(args.output, data)
    print(f"{args.output}: {len(data)} bytes")


def _env(args: argparse.Namespace) -> None:
    facts = {"python": platform.python_version(), "mrc_jax": mrc_jax.__version__}
    for name in _PACKAGES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    try:
        import jax

        facts["devices"] = ", ".join(f"{d.platform}: {d.device_kind}" for d in jax.devices())
    except (ImportError, RuntimeError) as error:
        facts["devices"] = f"none ({' '.join(str(error).splitlines())})"
    facts["kernels"] = "codebook (chosen), reference, pallas"
    lines = [f"{name:18}{value}" for name, value in facts.items()]
    print(json.dumps(facts, indent=1) if args.json else "\n".join(lines))


_COMMANDS = {  # what runs a command, what it does, an example
    "decode": (
        _decode,
        "write the weights in a file as .npz or .safetensors",
        "mrc-jax decode model.mrc -o weights.npz",
    ),
    "inspect": (
        _inspect,
        "show what is in a file and its bytes by part, without decoding the weights",
        "mrc-jax inspect model.mrc --json",
    ),
    "verify": (
        _verify,
        "check a file; with a report, decode it and compare the weights",
        "mrc-jax verify model.mrc --report report.json",
    ),
    "encode": (
        _encode,
        "code a trained posterior as it is, without refining and without data",
        "mrc-jax encode out/run -o model.mrc",
    ),
    "env": (_env, "show versions and devices", "mrc-jax env --json"),
}

if __name__ == "__main__":
    sys.exit(main())
