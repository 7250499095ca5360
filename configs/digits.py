"""A 64-128-64-10 network on the digits that the repository holds, in 600 bytes."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.bits = 14
    config.batch_size = 64
    return config
