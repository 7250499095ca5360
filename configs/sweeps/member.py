"""The config of a member of a sweep, or of any run: --config=configs/sweeps/member.py:PATH with
the path of its member.json or report.json.
"""

import json
import pathlib

import ml_collections


def get_config(path: str) -> ml_collections.ConfigDict:
    """Returns the config that is in a file."""
    values = json.loads(pathlib.Path(path).read_text())["config"]
    return ml_collections.ConfigDict({"data_dir": "", "start_from": "", **values})
