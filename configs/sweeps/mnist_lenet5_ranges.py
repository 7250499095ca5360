"""One prior scale for each tensor of LeNet-5 against eight, by short training coded at once."""

import ml_collections

from configs import mnist_lenet5


def get_config() -> ml_collections.ConfigDict:
    """Returns the sweep; configs/sweeps/digits_rate.py explains its fields."""
    sweep = ml_collections.ConfigDict()
    sweep.base = mnist_lenet5.get_config()
    sweep.base.plain_steps = 1000  # the plain network is not compared
    sweep.base.steps = 8000
    sweep.base.refine_steps = 0
    sweep.grid = {"scale_ranges": (1, 8), "seed": (0, 1)}
    sweep.cluster = {"timeout_min": 60, "cpus_per_task": 1}
    return sweep
