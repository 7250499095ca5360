"""ResNet-20 on CIFAR-10, its batch norm folded, in 32,000 bytes, or in 16,000 or 24,000 as
--config=configs/cifar10_resnet20.py:24000. Meant for an accelerator.
"""

import ml_collections

from configs import default

_OF_SIZES = {
    "16000": {"codebook_blocks": 1024, "wave_blocks": 128, "steps": 10500, "beta_init": 3e-6},
    "24000": {"codebook_blocks": 1536, "wave_blocks": 192, "steps": 10750, "beta_init": 2e-6},
    "32000": {"codebook_blocks": 2048, "wave_blocks": 256, "steps": 9000, "beta_init": 1.5e-6},
}
_REFINE_STEPS = {"16000": 125, "24000": 125, "32000": 100}
_LN_BETAS = 10.0  # how far the steps may move the log of a beta


def get_config(file_bytes: str = "32000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes that have been run."""
    config = default.get_config()
    config.name = "ResNet-20 on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "resnet20"
    config.hidden = ()
    config.file_bytes = int(file_bytes)
    config.embed_manifest = False
    config.bits = 20
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.codebook_bytes = 1 << 30
    config.refine_steps = _REFINE_STEPS[file_bytes]
    config.plain_steps = 14250
    config.plain_optimizer = "sgd"
    config.plain_learning_rate = 0.2
    config.plain_weight_decay = 5e-4
    config.plain_batch_size = 256
    config.distil = True
    config.start_from_plain = True
    config.plain_noise = 0.3
    config.learning_rate = 5e-3
    config.final_learning_rate = 5e-4
    config.refine_learning_rate = 2e-4
    config.log_std_init = -4.5
    config.prior_scale_init = 0.4
    config.refine_beta_step = 5e-3
    config.steps_per_call = 250
    config.update(_OF_SIZES[file_bytes])
    config.beta_step = _LN_BETAS / _OF_SIZES[file_bytes]["steps"]
    return config
