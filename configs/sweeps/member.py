"""The config of a sweep's member, as its folder has it: --config=configs/sweeps/member.py:PATH."""

import json
import pathlib

import ml_collections


def get_config(path: str) -> ml_collections.ConfigDict:
    """Returns the config in a member.json."""
    return ml_collections.ConfigDict(json.loads(pathlib.Path(path).read_text())["config"])
