"""VGG-8 on CIFAR-10, its batch norm folded, in 32,000 bytes, or in 16,000 or 24,000 as
--config=configs/cifar10_vgg8.py:24000. For two to three hours of two CPU cores: what
configs/cifar10_resnet20.py has, but for its training: blocks start at their budgets, each part of a
batch has weights of its own. A narrower network takes the smaller sizes.
"""

import ml_collections

from configs import cifar10_resnet20


def get_config(file_bytes: str = "32000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes."""
    config = cifar10_resnet20.get_config(file_bytes)
    config.name = "VGG-8 on CIFAR-10"
    config.model = "vgg8"
    config.width = 0 if file_bytes == "32000" else 24
    config.plain_augment = "crop_flip_cutout"
    config.plain_steps = 10000
    config.plain_optimizer = "muon"
    config.plain_learning_rate = 0.03
    config.plain_weight_decay = 0.03
    config.plain_batch_size = 128
    config.plain_label_smoothing = 0.1
    config.plain_noise = 0.1
    config.budget_start = True
    config.steps = 10000
    config.beta_step = 1e-3
    config.refine_steps = 80
    config.wave_blocks = config.codebook_blocks // 4
    config.batch_size = 64
    config.batch_parts = 4
    config.steps_per_call = 100
    return config
