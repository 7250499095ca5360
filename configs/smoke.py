"""A small network on the digits in seconds: it shows that everything runs, not how well."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.name = "smoke"
    config.hidden = (16,)
    config.file_bytes = 250
    config.bits = 8
    config.plain_steps = 100
    config.plain_learning_rate = 1e-2
    config.steps = 1000
    config.refine_steps = 1
    config.batch_size = 64
    config.beta_init = 1e-4
    config.beta_step = 1e-2
    config.log_std_init = -3.0
    config.steps_per_call = 250
    return config
