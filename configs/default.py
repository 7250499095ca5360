"""Every field of a config, with what it means; the values are a short run's on the digits."""

import ml_collections


def get_config() -> ml_collections.ConfigDict:
    """Returns the config."""
    config = ml_collections.ConfigDict()
    config.name = "digits"  # of the experiment, for plots
    config.seed = 0  # of everything random, 0 to 2^31 - 1

    # Data: 'digits' (in the repository), or 'mnist' or 'cifar10' from the files in data_dir.
    config.data = "digits"
    config.data_dir = ""
    config.hold_out = True  # False: train on the validation examples too, once a recipe stands
    config.distorted_copies = 0  # of the training images, to train on beside them
    config.distortion = 1.0  # a factor of how far the copies are distorted
    config.originals = 1  # how often each image itself stands beside its copies
    # 'none'; 'crop_flip': each step moves and mirrors images at random; 'crop_flip_cutout': it
    # hides a square of each too.
    config.augment = "none"

    # The network: 'mlp' with the widths of its hidden layers, or (hidden is empty) 'lenet5', or
    # 'vgg16', 'resnet20' or 'vgg8', whose batch norm is folded into the convolutions.
    config.model = "mlp"
    config.factored = False  # whether lenet5's kernels are coded by a cosine transform and gains
    config.hidden = (128, 64)
    config.width = 0  # channels of the first convolution of these three; 0: the network's own

    # The file: at most file_bytes, and at least 97 % of them (94 % where indices are 'ordered').
    config.file_bytes = 600
    config.bits = 0  # of a block's index, 1 to 30; 0: the library chooses
    config.block_size = 0  # coded entries of a block; 0: the library chooses
    config.codebook_blocks = 1  # blocks that share a codebook; 1: independent candidates
    config.embed_manifest = True  # False: the reader has the manifest, the file is smaller

    # Weight sharing: (pattern of a tensor's path, parameters for each coded entry) pairs.
    config.sharing = ()
    config.uncoded = ()  # patterns of tensors that are stored as they are

    # Coding.
    config.scale_ranges = 1  # of a large tensor, each with a prior scale of its own
    config.relative_means = False  # whether means move in units of their prior scales
    config.slack_nats = 0.0  # KL target of a block beyond its index's bits * ln 2
    config.selection = "sample"  # the paper's importance sampling, 'ordered' or 'argmax'
    config.codebook_bytes = 1 << 29  # a larger shared codebook is not kept between waves
    config.wave_blocks = 1  # blocks coded between refine steps
    config.refine_steps = 10  # steps on the blocks not yet coded, after each wave
    config.recode_sweeps = 0  # how often blocks choose again once all are coded
    config.recode_examples = 1000  # of which the curvature is taken for it

    # Training of the uncompressed network, which the report compares with.
    config.plain_steps = 2000
    config.plain_learning_rate = 1e-3
    config.plain_optimizer = "adam"  # or 'sgd', with momentum, or 'muon'
    config.plain_weight_decay = 0.0  # times the rate: the share of its weights that a step takes
    config.plain_batch_size = 0  # examples of a step; 0: batch_size
    config.plain_augment = ""  # what it does to images; '': what augment says
    config.plain_label_smoothing = 0.0  # the share of a label that is spread over all classes
    config.start_from = ""  # the folder of a run with a larger file: the posterior starts from its
    config.start_from_plain = False  # whether the posterior's means start from the plain network
    config.budget_start = False  # whether blocks start at their KL budgets; needs plain_noise
    config.plain_noise = 0.0  # their deviations then, in units of their group's; 0: log_std_init
    config.distil = False  # whether the plain network's outputs are the posterior's targets

    # Training of the posterior, by Adam.
    config.parameterisation = "mean_variance"  # or 'mean_kl', which needs no betas
    config.steps = 6000  # before the first block is coded
    config.batch_size = 128  # examples of a step
    config.batch_parts = 1  # of it, one after another: layers hold a part (plain training: all)
    config.learning_rate = 1e-3  # at the start
    config.final_learning_rate = 3e-4  # after `steps`, reached by a cosine
    config.refine_learning_rate = 3e-4  # while refining
    config.beta_init = 1e-6  # every block's KL multiplier at the start
    config.beta_step = 5e-4  # a step multiplies or divides betas by 1 + beta_step
    config.refine_beta_step = 0.0  # the same while refining; 0: beta_step
    config.log_std_init = -5.0  # log of q's standard deviation at the start
    config.prior_scale_init = 0.1353352832366127  # exp(-2), of groups; ranges: twice to 1/8 of it
    config.steps_per_call = 500  # of the compiled program

    # Devices that share the work: 'data=8' divides batches and the blocks of a wave among eight,
    # 'data=4,candidates=2' each block's candidates too, 'members' those that train together.
    config.mesh = ""
    config.data_shards = 0  # parts of the data, each in every batch; 0: as many as devices

    # What is kept and told.
    config.checkpoint_every_s = 60.0
    config.report_test = False  # True only for the figure that is reported
    config.tensorboard = False
    return config
