"""The config of a member of a sweep, or of any run: --config=configs/sweeps/member.py:PATH with
the path of its member.json or report.json.
"""

import json
import pathlib

import ml_collections


def get_config(path: str) -> ml_collections.ConfigDict:
    """Returns the config that is in a file."""
    found = json.loads(pathlib.Path(path).read_text())
    source = found.get("started_from") or {}
    places = {"data_dir": "", "start_from": ""}
    if source:  # of a report: it does not say where, and to start from nothing is another run
        places["start_from"] = f"(the run of config {source['config_hash'][:12]})"
    return ml_collections.ConfigDict({**places, **found["config"]})
