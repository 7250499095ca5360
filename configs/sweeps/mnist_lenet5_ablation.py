"""What each ingredient of configs/mnist_lenet5.py brings: short runs without one of them, or with
something else in its place, two seeds each; `experiments.ablation` makes their table.
"""

import ml_collections

from configs import mnist_lenet5

_ABSOLUTE = {"relative_means": False}
_MEAN_KL = {"parameterisation": "mean_kl", **_ABSOLUTE}


def get_config() -> ml_collections.ConfigDict:
    """Returns the sweep; configs/sweeps/digits_rate.py explains its fields."""
    sweep = ml_collections.ConfigDict()
    sweep.base = mnist_lenet5.get_config()
    sweep.base.plain_steps = 1  # the plain network is not compared
    sweep.base.steps = 10000
    sweep.base.bits = 18  # a sixteenth of the candidates
    sweep.base.refine_steps = 10
    sweep.base.beta_step = 2e-3  # the betas move about as far in a short schedule as in a long one
    sweep.cases = (
        {},
        _ABSOLUTE,
        _MEAN_KL,
        {**_MEAN_KL, "learning_rate": 1e-2},
        {**_MEAN_KL, "learning_rate": 3e-2, "refine_learning_rate": 4e-3},
        {"originals": 1},
        {"distorted_copies": 0, "originals": 1},
        {"factored": False},
        {"scale_ranges": 1},
        {"refine_steps": 0},
    )
    sweep.grid = {"seed": (0, 1)}
    sweep.cluster = {"timeout_min": 60, "cpus_per_task": 1}
    return sweep
