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
    "validation_loss", "unique_values", "entropy_bits", "power_share", "compress_s", "decode_s",
)  # fmt: skip


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
    other systems on the same network, whose errors are of the test set.
    """
    split = (
        "test_error" if all("test_error" in r for r in (plain, *reports)) else "validation_error"
    )
    lines = [
        f"| method | settings | bytes | smaller | {split.replace('_', ' ')} | values | compress, s "
        "| decode, s |",
        "|---|---|---|---|---|---|---|---|",
        f"| plain network, float32 | | {plain['file_bytes']:,} | 1 x | {plain[split]:.2%} | | | |",
    ]
    for report in sorted(reports, key=lambda r: (r["method"], r["file_bytes"])):
        settings = ", ".join(f"{k} {v}" for k, v in report["settings"].items())
        decoded = f"{report['decode_s']:.3f}" if "decode_s" in report else ""
        lines.append(
            f"| {report['method'].replace('_', ' ')} | {settings} | {report['file_bytes']:,} | "
            f"{plain['file_bytes'] / report['file_bytes']:.0f} x | {report[split]:.2%} | "
            f"{report.get('unique_values', '')} | {report['compress_s']:.0f} | {decoded} |"
        )
    if split == "test_error":
        lines += _of_others(reports[0], plain)
    return "\n".join(lines)


def _of_others(report: dict[str, Any], plain: dict[str, Any]) -> list[str]:
    points = published(report.get("data", ""), report.get("model", "")).get("measured", [])
    return [
        f"| {p.name}, measured apart | | {p.file_bytes:,.0f} | "
        f"{plain['file_bytes'] / p.file_bytes:.0f} x | {p.mean:.2f}% | | | |"
        for p in sorted(points, key=lambda p: (p.name, p.file_bytes))
    ]
