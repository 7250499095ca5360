"""Error against size of LeNet-5 on MNIST: six sizes and three seeds of configs/mnist_lenet5.py, on
all training images. Each size starts from the trained posterior of the larger one before it.
"""

import ml_collections

from configs import mnist_lenet5

_NEXT = {"steps": 25000, "learning_rate": 1.5e-3}


def get_config() -> ml_collections.ConfigDict:
    """Returns the sweep; configs/sweeps/digits_rate.py explains its fields."""
    sweep = ml_collections.ConfigDict()
    sweep.base = mnist_lenet5.get_config()
    sweep.base.hold_out = False
    sweep.cases = (
        {"file_bytes": 2280},
        *({"file_bytes": size, **_NEXT} for size in (1690, 1520, 1140, 760, 570)),
    )
    sweep.chained = True
    sweep.grid = {"seed": (0, 1, 2)}
    sweep.cluster = {"timeout_min": 240, "cpus_per_task": 1}
    return sweep
