"""VGG-8 on CIFAR-10, its batch norm folded, in 32,000 bytes, or in 16,000 or 24,000 as
--config=configs/cifar10_vgg8.py:24000. For an hour and a half of two CPU cores. Its
first file misses what is wanted (docs/results.md).
"""

import ml_collections

from configs import default

_CODEBOOK_BLOCKS = {"16000": 1024, "24000": 1536, "32000": 2048}
_LN_BETAS = 10.0  # how far the steps may move the log of a beta


def get_config(file_bytes: str = "32000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes."""
    config = default.get_config()
    config.name = "VGG-8 on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "vgg8"
    config.hidden = ()
    config.file_bytes = int(file_bytes)
    config.embed_manifest = False
    config.bits = 20
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.codebook_bytes = 1 << 30
    config.codebook_blocks = _CODEBOOK_BLOCKS[file_bytes]
    config.wave_blocks = _CODEBOOK_BLOCKS[file_bytes] // 2
    config.refine_steps = 100
    config.plain_steps = 8000
    config.plain_optimizer = "muon"
    config.plain_learning_rate = 0.03
    config.plain_weight_decay = 0.02
    config.distil = True
    config.start_from_plain = True
    config.plain_noise = 0.3
    config.steps = 3000
    config.learning_rate = 5e-3
    config.final_learning_rate = 5e-4
    config.refine_learning_rate = 2e-4
    config.log_std_init = -4.5
    config.prior_scale_init = 0.4
    config.beta_init = 0.048 / config.file_bytes
    config.beta_step = _LN_BETAS / config.steps
    config.refine_beta_step = 5e-3
    config.batch_parts = 8
    config.steps_per_call = 50
    return config
