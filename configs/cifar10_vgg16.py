"""VGG-16 on CIFAR-10, its batch norm folded, in 128,000 bytes. Meant for an accelerator: on two CPU
cores a step takes seconds.
"""

import ml_collections

from configs import default

# The convolutions with 512 channels on both sides, 11.8 of the 15.2 million parameters.
_WIDEST = tuple((f"Conv_{number}/kernel", 8) for number in range(8, 13))


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.name = "VGG-16 on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "vgg16"
    config.hidden = ()
    config.file_bytes = 128000
    config.embed_manifest = False
    config.sharing = _WIDEST
    config.bits = 20
    config.codebook_blocks = 1 << 13
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.wave_blocks = 1024
    config.refine_steps = 300
    config.plain_steps = 40000
    config.plain_learning_rate = 1e-3
    config.plain_weight_decay = 0.1
    config.start_from_plain = True
    config.steps = 60000
    config.learning_rate = 2e-3
    config.final_learning_rate = 1e-4
    config.refine_learning_rate = 1e-4
    config.beta_init = 2e-7
    config.beta_step = 2e-4
    config.log_std_init = -5.0
    return config
