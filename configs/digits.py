"""A 64-128-64-10 network on the digits that the repository holds, in 600 bytes."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.bits = 14
    config.sharing = (("Dense_0/kernel", 8), ("Dense_1/kernel", 16))
    config.steps = 8000
    config.batch_size = 64
    config.learning_rate = 3e-3
    config.final_learning_rate = 1e-3
    config.refine_learning_rate = 1e-3
    config.beta_init = 1e-4
    config.beta_step = 1e-3
    config.log_std_init = -3.0
    return config
