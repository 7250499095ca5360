"""The methods on one LeNet-5 for MNIST, each at several rates."""

import ml_collections

from configs import mnist_lenet5

PRUNING = {"values": 8, "rounds": 8, "steps": 4000, "batch_size": 128, "learning_rate": 1e-3}
FIXING = {"steps": 2000, "batch_size": 128}


def get_config() -> ml_collections.ConfigDict:
    """Returns the comparison; configs/compare/digits.py explains its fields. The rate is `kept` of
    deep compression, `zero_distance` (the paper: 2^-7) of WFN and `bits` of PWFN.
    """
    compare = ml_collections.ConfigDict()
    compare.base = mnist_lenet5.get_config()
    compare.base.factored = False  # the other methods' networks; MIRACLE's are finished runs
    compare.members = (
        _fixed(2.0**-7, 0.02),
        _probabilistic(6),
        _pruned(0.006),
        _fixed(2.0**-3, 0.02),
        _probabilistic(4),
        _pruned(0.004),
        _fixed(2.0**-2, 0.02),
        _probabilistic(3),
        _pruned(0.009),
        _fixed(2.0**-4, 0.02),
        _probabilistic(5),
        _pruned(0.003),
        _fixed(2.0**-2.5, 0.02),
        _probabilistic(2),
        _fixed(2.0**-2.25, 0.02),
        _pruned(0.002),
        _fixed(2.0**-5, 0.02),
        *(
            ("rate_distortion", {"objective": o, "pruned": p, "values": 8})
            for p in (0.0, 0.5)
            for o in ("baseline", "fisher", "gradient", "hessian", "gradient_and_hessian")
        ),
    )
    compare.runs = tuple(  # of MIRACLE
        f"experiments/results/mnist_lenet5/factored_{size}_seed{seed}"
        for size, seeds in ((1140, 2), (1520, 3), (1690, 2), (2280, 2), (3030, 2))
        for seed in range(seeds)
    )
    return compare


def _pruned(kept: float) -> tuple[str, dict[str, float]]:
    return "deep_compression", {"kept": kept, **PRUNING}


def _fixed(zero_distance: float, delta: float) -> tuple[str, dict[str, float]]:
    own = {"zero_distance": round(zero_distance, 4), "delta": delta, "learning_rate": 3e-4}
    return "weight_fixing", {**own, **FIXING}


def _probabilistic(bits: int) -> tuple[str, dict[str, float]]:
    return "probabilistic_fixing", {"bits": bits, "most_powers": 2, "learning_rate": 1e-2, **FIXING}
