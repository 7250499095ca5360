"""LeNet-5 on MNIST, or any other set of 28 x 28 images and ten classes in IDX files."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    return ml_collections.ConfigDict(
        {
            "name": "LeNet-5 on MNIST",
            "data": "mnist",
            "data_dir": "",
            "model": "lenet5",
            "seed": 0,
            "file_bytes": 1500,
            "embed_manifest": False,
            "sharing": (("Conv_1/kernel", 2), ("Dense_0/kernel", 50)),
            "bits": 20,
            "slack_nats": 1.4,
            "plain_steps": 10000,
            "plain_learning_rate": 1e-3,
            "steps": 70000,
            "refine_steps": 64,
            "batch_size": 64,
            "learning_rate": 1e-3,
            "final_learning_rate": 3e-4,
            "refine_learning_rate": 3e-4,
            "beta_init": 1e-6,
            "beta_step": 3e-4,
            "steps_per_call": 250,
            "report_test": False,
        }
    )
