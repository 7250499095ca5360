"""VGG-16 on CIFAR-10, its batch norm folded, in 135,000 bytes, or in 384,000 as
--config=configs/cifar10_vgg16.py:384000. Meant for an accelerator: on two CPU cores a step takes
seconds.

The two sizes have been run with different plain networks: 384,000 bytes start from a longer
training by momentum, with hidden squares, and learn what that network says, not the labels.
"""

import ml_collections

from configs import default

_OF_SIZES = {
    "135000": {
        "plain_steps": 28000,
        "plain_learning_rate": 1e-3,
        "plain_weight_decay": 0.2,
        "augment": "crop_flip",
        "codebook_blocks": 1 << 13,
        "wave_blocks": 1024,
        "refine_steps": 175,
        "steps": 17500,
        "beta_init": 2.5e-7,
        "beta_step": 8.0 / 17500,
    },
    "384000": {
        "plain_steps": 34000,
        "plain_optimizer": "sgd",
        "plain_learning_rate": 0.1,
        "plain_weight_decay": 5e-4,
        "plain_batch_size": 256,
        "plain_label_smoothing": 0.1,
        "augment": "crop_flip_cutout",
        "distil": True,
        "codebook_blocks": 1 << 14,
        "wave_blocks": 4096,
        "refine_steps": 150,
        "steps": 10000,
        "beta_init": 3e-7,
        "beta_step": 1e-3,
        "refine_beta_step": 5e-3,
    },
}


def get_config(file_bytes: str = "135000") -> ml_collections.ConfigDict:
    """Returns the config for one of the sizes that have been run."""
    config = default.get_config()
    config.name = "VGG-16 on CIFAR-10"
    config.data = "cifar10"
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
    config.start_from_plain = True
    config.plain_noise = 0.3
    config.learning_rate = 5e-3
    config.final_learning_rate = 5e-4
    config.refine_learning_rate = 4e-5
    config.prior_scale_init = 0.7
    config.steps_per_call = 250
    config.update(_OF_SIZES[file_bytes])
    return config
