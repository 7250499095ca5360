"""ResNet-20 on CIFAR-10, its batch norm folded, in 20,000 bytes. Meant for an accelerator."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.name = "ResNet-20 on CIFAR-10"
    config.data = "cifar10"
    config.augment = "crop_flip"
    config.model = "resnet20"
    config.hidden = ()
    config.file_bytes = 20000
    config.embed_manifest = False
    config.bits = 16
    config.codebook_blocks = 1024
    config.wave_blocks = 128
    config.refine_steps = 500
    config.plain_steps = 60000
    config.start_from_plain = True
    config.steps = 150000
    config.learning_rate = 1e-3
    config.final_learning_rate = 1e-4
    config.refine_learning_rate = 1e-4
    config.beta_init = 1e-7
    config.beta_step = 2e-4
    config.log_std_init = -6.0
    return config
