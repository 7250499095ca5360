"""Error against size of LeNet-5 on MNIST: five sizes and three seeds of configs/mnist_lenet5.py."""

import ml_collections

from configs import mnist_lenet5


def get_config() -> ml_collections.ConfigDict:
    """Returns the sweep; configs/sweeps/digits_rate.py explains its fields."""
    sweep = ml_collections.ConfigDict()
    sweep.base = mnist_lenet5.get_config()
    sweep.grid = {"file_bytes": (1520, 1140, 3030, 1690, 2280), "seed": (0, 1, 2)}
    sweep.cluster = {"timeout_min": 240, "cpus_per_task": 1}
    return sweep
