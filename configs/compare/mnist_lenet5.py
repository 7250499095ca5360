"""The methods on one LeNet-5 for MNIST, each at several rates."""

import ml_collections

from configs import mnist_lenet5


def get_config() -> ml_collections.ConfigDict:
    """Returns the comparison; configs/compare/digits.py explains its fields."""
    compare = ml_collections.ConfigDict()
    compare.base = mnist_lenet5.get_config()
    pruning = {"rounds": 5, "steps": 400, "batch_size": 64, "learning_rate": 1e-3}
    fixing = {"steps": 150, "batch_size": 64}
    shares = (0.5, 0.8, 0.95, 0.99, 1.0)
    compare.members = (
        ("miracle", {}),
        *(("deep_compression", {"kept": k, "values": 8, **pruning}) for k in (0.005, 0.01, 0.02)),
        *(
            ("rate_distortion", {"objective": o, "pruned": p, "values": 8})
            for p in (0.0, 0.5)
            for o in ("baseline", "fisher", "gradient", "hessian", "gradient_and_hessian")
        ),
        ("weight_fixing", {"delta": 0.01, "learning_rate": 1e-4, "shares": shares, **fixing}),
        (
            "probabilistic_fixing",
            {"bits": 6, "threshold": 8.0, "most_powers": 2, "learning_rate": 1e-3, **fixing},
        ),
    )
    return compare
