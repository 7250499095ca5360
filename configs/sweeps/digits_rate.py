"""Error against size on the digits: three sizes and three seeds of configs/digits.py."""

import ml_collections

from configs import digits


def get_config() -> ml_collections.ConfigDict:
    """Returns the sweep.

    Its fields: `base`, a config; `grid`, the values that fields of it take, in every combination;
    `cases`, overrides of the base one by one, each with the whole grid; `chained`, whether each
    case starts from the trained posterior of the case before it, that has the same values of the
    grid; and `cluster`, parameters of submitit's executor. All but `base` may be left out.
    """
    sweep = ml_collections.ConfigDict()
    sweep.base = digits.get_config()
    sweep.grid = {"file_bytes": (300, 600, 1200), "seed": (0, 1, 2)}
    return sweep
