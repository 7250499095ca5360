"""VGG-16 on CIFAR-10, its batch norm folded, in 135,000 bytes, or in 384,000 as
--config=configs/cifar10_vgg16.py:384000. Meant for an accelerator: on two CPU cores a step takes
seconds.
"""

import ml_collections

from configs import default

_OF_SIZES = {
    "135000": {
        "codebook_blocks": 1 << 13,
        "wave_blocks": 1024,
        "refine_steps": 175,
        "steps": 17500,
        "beta_init": 2.5e-7,
    },
    "384000": {
        "codebook_blocks": 1 << 14,
        "wave_blocks": 4096,
        "refine_steps": 225,
        "steps": 17750,
        "beta_init": 7e-8,
    },
}
_LN_BETAS = 8.0  # how far the steps may move the log of a beta


def get_config(file_bytes: str = "135000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes that have been run."""
    config = default.get_config()
    config.name = "VGG-16 on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "vgg16"
    config.hidden = ()
    config.file_bytes = int(file_bytes)
    config.embed_manifest = False
    config.bits = 20
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.codebook_bytes = 1 << 30
    config.plain_steps = 28000
    config.plain_learning_rate = 1e-3
    config.plain_weight_decay = 0.2
    config.start_from_plain = True
    config.plain_noise = 0.3
    config.learning_rate = 5e-3
    config.final_learning_rate = 5e-4
    config.refine_learning_rate = 4e-5
    config.prior_scale_init = 0.7
    config.steps_per_call = 250
    config.update(_OF_SIZES[file_bytes])
    config.beta_step = _LN_BETAS / _OF_SIZES[file_bytes]["steps"]
    return config
