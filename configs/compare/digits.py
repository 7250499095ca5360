"""Every method at a rate or two on the digits network: minutes."""

import ml_collections

from configs import digits

FIXING = {"learning_rate": 1e-3, "steps": 100, "batch_size": 64}


def get_config() -> ml_collections.ConfigDict:
    """Returns the comparison: `base` is a run's config, whose plain network is what is compressed;
    `members` are pairs of a method (see experiments/methods.py, or 'miracle') and its settings,
    which for 'miracle' are fields of the run's config; `runs` (none here) are folders of finished
    runs of MIRACLE, from the repository's root.
    """
    compare = ml_collections.ConfigDict()
    compare.base = digits.get_config()
    pruning = {"rounds": 4, "steps": 300, "batch_size": 64, "learning_rate": 3e-3}
    compare.members = (
        ("miracle", {}),
        ("miracle", {"file_bytes": 1200}),
        ("deep_compression", {"kept": 0.05, "values": 6, **pruning}),
        ("deep_compression", {"kept": 0.1, "values": 8, **pruning}),
        ("weight_fixing", {"delta": 0.01, **FIXING}),
        ("probabilistic_fixing", {**FIXING, "learning_rate": 1e-2, "first_steps": 200}),
        ("rate_distortion", {"objective": "baseline", "values": 8}),
        ("rate_distortion", {"objective": "hessian", "values": 8}),
    )
    return compare
