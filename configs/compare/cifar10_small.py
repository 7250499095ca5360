"""The methods on one small convolutional network for CIFAR-10: ResNet-20 with half of its channels.
Meant for an accelerator.
"""

import ml_collections

from configs import cifar10_resnet20

PRUNING = {"values": 16, "rounds": 6, "steps": 3000, "batch_size": 128, "learning_rate": 1e-3}
FIXING = {"steps": 1500, "batch_size": 128}
OBJECTIVES = ("baseline", "fisher", "gradient", "hessian", "gradient_and_hessian")


def get_config() -> ml_collections.ConfigDict:
    """Returns the comparison; configs/compare/digits.py explains its fields, and mnist_lenet5.py
    there the rates. Methods train on the images as they are, without the plain network's crops and
    flips.
    """
    compare = ml_collections.ConfigDict()
    compare.base = cifar10_resnet20.get_config()
    compare.base.name = "ResNet-20 of 8 channels on CIFAR-10"
    compare.base.width = 8
    compare.members = (
        *(("miracle", {"file_bytes": size}) for size in (4000, 8000)),
        *(("deep_compression", {"kept": kept, **PRUNING}) for kept in (0.1, 0.2, 0.4)),
        *(
            (
                "weight_fixing",
                {"zero_distance": zero, "delta": 0.02, "learning_rate": 3e-4, **FIXING},
            )
            for zero in (2.0**-7, 2.0**-5, 2.0**-4)
        ),
        *(
            (
                "probabilistic_fixing",
                {"bits": bits, "most_powers": 2, "learning_rate": 3e-3, **FIXING},
            )
            for bits in (6, 5, 4)
        ),
        *(
            ("rate_distortion", {"objective": objective, "pruned": 0.0, "values": values})
            for values in (8, 16)
            for objective in OBJECTIVES
        ),
    )
    return compare
