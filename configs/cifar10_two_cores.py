"""ResNet-20 on CIFAR-10, its batch norm folded, in 32,000 bytes, or in 16,000 or 24,000 as
--config=configs/cifar10_two_cores.py:24000. For some hours of two CPU cores: shorter than
configs/cifar10_resnet20.py. No file has been made with it yet.
"""

import ml_collections

from configs import cifar10_resnet20


def get_config(file_bytes: str = "32000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes."""
    config = cifar10_resnet20.get_config(file_bytes)
    config.name = "ResNet-20 on CIFAR-10, two CPU cores"
    config.plain_steps = 16000
    config.plain_restart = 12000
    config.plain_batch_size = 128
    config.beta_step *= config.steps / 2500  # betas may move as far
    config.steps = 2500
    config.refine_steps = 100
    config.wave_blocks = config.codebook_blocks // 2
    config.batch_parts = 16
    config.steps_per_call = 50
    return config
