"""VGG-16 with 24 channels in place of 64 on CIFAR-10, its batch norm folded, in 32,000 bytes, or in
16,000 or 24,000 as --config=configs/cifar10_two_cores.py:24000. Meant for two CPU cores.
"""

import ml_collections

from configs import default

_BLOCKS = {"16000": 1024, "24000": 1536, "32000": 2048}  # of a codebook
_LN_BETAS = 10.0  # how far the steps may move the log of a beta


def get_config(file_bytes: str = "32000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes that have been run."""
    config = default.get_config()
    config.name = "VGG-16, 24 channels wide, on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "vgg16"
    config.width = 24
    config.hidden = ()
    config.file_bytes = int(file_bytes)
    config.bits = 20
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.codebook_bytes = 1 << 30
    config.codebook_blocks = _BLOCKS[file_bytes]
    config.wave_blocks = _BLOCKS[file_bytes] // 2
    config.plain_steps = 8000
    config.plain_optimizer = "sgd"
    config.plain_learning_rate = 0.1
    config.plain_weight_decay = 5e-4
    config.plain_label_smoothing = 0.1
    config.distil = True
    config.start_from_plain = True
    config.plain_noise = 0.3
    config.steps = 2500
    config.refine_steps = 100
    config.learning_rate = 5e-3
    config.final_learning_rate = 5e-4
    config.refine_learning_rate = 2e-4
    config.prior_scale_init = 0.4
    config.beta_init = 1e-6
    config.beta_step = _LN_BETAS / config.steps
    config.refine_beta_step = 5e-3
    config.steps_per_call = 50
    return config
