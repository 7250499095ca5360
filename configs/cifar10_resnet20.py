"""ResNet-20 on CIFAR-10, its batch norm folded, in 16,000 bytes. Meant for an accelerator."""

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
    config.file_bytes = 16000
    config.embed_manifest = False
    config.bits = 20
    config.codebook_blocks = 1024
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "ordered"
    config.wave_blocks = 128
    config.refine_steps = 300
    config.plain_steps = 30000
    config.plain_learning_rate = 3e-3
    config.plain_weight_decay = 0.05
    config.start_from_plain = True
    config.steps = 40000
    config.learning_rate = 3e-3
    config.final_learning_rate = 2e-4
    config.refine_learning_rate = 3e-4
    config.beta_init = 2e-6
    config.beta_step = 2e-4
    config.log_std_init = -4.5
    return config
