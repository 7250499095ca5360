"""The tables of a comparison."""

import csv
import io
import json
import pathlib
from typing import Any

from experiments import record
from experiments.plot import published
from mrc_jax import files

_COLUMNS = (
    "member", "method", "settings", "file_bytes", "validation_error", "test_error",
    "validation_loss", "unique_values", "entropy_bits", "power_share", "zero_share", "compress_s",
    "decode_s",
)  # fmt: skip
TITLES = {
    "miracle": "MIRACLE",
    "deep_compression": "Deep Compression",
    "weight_fixing": "WFN",
    "probabilistic_fixing": "PWFN",
    "rate_distortion": "few values a tensor",
}
_FACTS = ("values", "bits a weight, entropy", "powers of two")


def of_run(folder: pathlib.Path) -> dict[str, Any]:
    """The report of a finished run of `compress` as a member's; its seconds are of training the
    posterior and coding, and how long it decodes was not measured.
    """
    report = record.read_json(folder / "report.json")
    config, spent = report["config"], report["seconds"]
    kept = ("file_bytes", "weights_sha256", "validation_error", "test_error", "seed", "commit")
    return {
        "member": folder.name,
        "method": "miracle",
        "settings": {"run": folder.name},
        **{name: report[name] for name in (*kept, "versions", "device") if name in report},
        "compress_s": sum(spent.get(phase, 0.0) for phase in ("train", "code")),
        "data": config["data"],
        "model": config["model"],
    }


def write_tables(
    reports: list[dict[str, Any]], plain: dict[str, Any], folder: pathlib.Path
) -> None:
    """Writes results.csv and results.jsonl, in which the plain network is first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([{k: r.get(k, "") for k in _COLUMNS} for r in reports])
    lines = "".join(json.dumps(report) + "\n" for report in (plain, *reports))
    files.write(folder / "results.csv", text.getvalue().encode())
    files.write(folder / "results.jsonl", lines.encode())


def markdown(reports: list[dict[str, Any]], plain: dict[str, Any]) -> str:
    """The table: a line for each member, the plain network first, and last what was measured of
    other systems on the same network, whose errors are of the test set. Settings are those in which
    a method's members differ; entropy is of order 0; powers are the share of weights that are 0 or
    a power of two, and in brackets that of the weights that are not 0.
    """
    errors = ["validation_error", "test_error"]
    if not all("test_error" in r for r in (plain, *reports)):
        errors.pop()
    heads = [error.replace("_", " ") for error in errors]
    heads = ["method", "settings", "bytes", "smaller", *heads, *_FACTS, "compress, s", "decode, s"]
    size = plain["file_bytes"]
    rows = [["plain network, float32", "", f"{size:,}", "1 x", *_percents(plain, errors)]]
    for report in sorted(reports, key=lambda r: (r["method"], r["file_bytes"])):
        name = TITLES[report["method"]]
        bytes_ = report["file_bytes"]
        row = [name, _settings(report, reports), f"{bytes_:,}", f"{size / bytes_:.0f} x"]
        row += [*_percents(report, errors), *_facts(report), f"{report['compress_s']:.0f}"]
        rows.append([*row, f"{report['decode_s']:.3f}" if "decode_s" in report else ""])
    if "test_error" in errors:
        rows += _of_others(reports[0], plain)
    rows = [row + [""] * (len(heads) - len(row)) for row in rows]
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("|" + "|".join(f" {x} " if x else " " for x in row) + "|" for row in lines)


def _percents(report: dict[str, Any], errors: list[str]) -> list[str]:
    return [f"{report[error]:.2%}" for error in errors]


def _settings(report: dict[str, Any], reports: list[dict[str, Any]]) -> str:
    own = [r["settings"] for r in reports if r["method"] == report["method"]]
    apart = {k for each in own for k in each if any(o.get(k) != each[k] for o in own)}
    return ", ".join(
        f"{k} {v}".replace("_", " ") for k, v in report["settings"].items() if k in apart
    )


def _facts(report: dict[str, Any]) -> list[str]:
    """The cells of _FACTS, empty where weights are not few values."""
    if "unique_values" not in report:
        return [""] * len(_FACTS)
    share, zeros = report["power_share"], report.get("zero_share")
    powers = f"{share:.1%}"
    if zeros is not None and zeros < 1:
        powers += f" ({(share - zeros) / (1 - zeros):.0%})"
    return [str(report["unique_values"]), f"{report['entropy_bits']:.2f}", powers]


def _of_others(report: dict[str, Any], plain: dict[str, Any]) -> list[list[str]]:
    points = published(report.get("data", ""), report.get("model", "")).get("measured", [])
    size = plain["file_bytes"]
    rows = []
    for p in sorted(points, key=lambda p: (p.name, p.file_bytes)):
        smaller = f"{size / p.file_bytes:.0f} x"
        rows.append(
            [f"{p.name}, measured apart", "", f"{p.file_bytes:,.0f}", smaller, "", f"{p.mean:.2f}%"]
        )
    return rows
