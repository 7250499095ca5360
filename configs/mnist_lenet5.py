"""LeNet-5 on MNIST, or any other set of 28 x 28 images and ten classes in IDX files."""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = default.get_config()
    config.name = "LeNet-5 on MNIST"
    config.data = "mnist"
    config.model = "lenet5"
    config.hidden = ()
    config.file_bytes = 1520
    config.embed_manifest = False
    config.factored = True
    config.sharing = (("Dense_0/kernel", 50),)
    config.bits = 22
    config.scale_ranges = 8
    config.relative_means = True
    config.slack_nats = 1.4
    config.selection = "sample"
    config.distorted_copies = 15
    config.originals = 15
    config.plain_steps = 15000
    config.steps = 80000
    config.refine_steps = 20
    config.batch_size = 64
    config.learning_rate = 3e-3
    config.final_learning_rate = 1e-4
    config.refine_learning_rate = 4e-4
    config.refine_beta_step = 5e-3
    config.beta_init = 1e-5
    config.beta_step = 7.5e-4
    config.log_std_init = -4.0
    config.steps_per_call = 250
    return config
