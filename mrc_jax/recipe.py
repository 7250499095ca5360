"""The recipe: every setting of training and coding, typed and checked once."""

import dataclasses
import math

from mrc_jax.errors import UsageError
from mrc_jax.manifest import MAX_RANGES

SELECTIONS = ("sample", "ordered", "argmax")
PARAMETERISATIONS = ("mean_variance", "mean_kl")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Settings of one compression.

    Attributes:
      bits: bits of an index, 1 to 30; 0 lets `budget.plan` choose.
      block_size: entries of a block; 0 lets `budget.plan` choose.
      codebook_blocks: consecutive blocks that share a codebook; 1 means independent candidates.
      embed_manifest: whether the file holds its manifest or the reader has to have it.
      sharing: (path pattern, factor) pairs, see `sharing.make_sharing`.
      uncoded: path patterns of tensors stored as they are.
      scale_ranges: ranges of the entries of a large tensor, each with a prior scale of its own, 1
        to 64 (see `Tensor.group_sizes`): important weights settle where the prior is wide, and the
        others' noise is small where it is narrow.
      relative_means: whether Adam's steps of a mean are in units of its prior scale over
        prior_scale_init until the first block is coded, so that those under a wide prior move
        faster than those under a narrow one.
      slack_nats: KL of a block beyond its index's bits (the paper's t is -slack_nats).
      selection: 'sample' (the paper's importance sampling), 'ordered' (the same law, by
        indices that are entropy-coded where that makes the file smaller) or 'argmax' (biased).
      parameterisation: 'mean_variance' (the paper's, betas hold the KL at its budget) or 'mean_kl'
        (see mean_kl.py: the KL is the budget by construction, so beta_init and beta_step have no
        effect, and log_std_init only on the shares at the start).
      codebook_bytes: a shared codebook that is larger is made again for each wave, not kept.
      steps: training steps before the first block is coded.
      refine_steps: training steps after each wave.
      wave_blocks: blocks coded between refine steps (Algorithm 2: 1).
      recode_sweeps: how often blocks choose again once all are coded (`recode`); then what is coded
        is no sample of the posterior.
      recode_examples: of which the curvature of the loss is taken for it.
      batch_size: examples of a step.
      batch_parts: parts of a batch whose gradients are taken one after another and averaged, so
        that the layers hold one at a time. Each has a sample of the weights of its own, in pairs
        (`samples.mirrored_noise`), so that the gradient has less noise. The loss must be a mean
        over examples. Dropout draws for each part, batch statistics are of a part and move with
        every one.
      data_shards: parts of the data, each of which gives an equal share of every batch; the devices
        that divide the batches divide it. The batches depend on it, not on the devices.
      learning_rate, final_learning_rate: Adam's, at the start and, by a cosine, after `steps`.
      refine_learning_rate: Adam's while refining.
      beta_init: every block's KL multiplier at the start (the paper's epsilon_beta0).
      beta_step: a step multiplies or divides betas by 1 + beta_step (the paper's epsilon_beta).
      refine_beta_step: the same while refining, which lowers the loss by more KL in the blocks left
        where their betas are slow; 0: beta_step.
      log_std_init: log of q's standard deviation at the start.
      prior_scale_init: every group's prior scale at the start; those of a tensor that has several
        start from twice to an eighth of it.
      steps_per_call: steps of one call of the compiled training program.
    """

    bits: int = 0
    block_size: int = 0
    codebook_blocks: int = 1
    embed_manifest: bool = True
    sharing: tuple[tuple[str, int], ...] = ()
    uncoded: tuple[str, ...] = ()
    scale_ranges: int = 1
    relative_means: bool = False
    slack_nats: float = 0.0
    selection: str = "sample"
    parameterisation: str = "mean_variance"
    codebook_bytes: int = 1 << 29
    steps: int = 10_000
    refine_steps: int = 10
    wave_blocks: int = 1
    recode_sweeps: int = 0
    recode_examples: int = 1000
    batch_size: int = 128
    batch_parts: int = 1
    data_shards: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-4
    refine_learning_rate: float = 3e-4
    beta_init: float = 1e-6
    beta_step: float = 5e-4
    refine_beta_step: float = 0.0
    log_std_init: float = -5.0
    prior_scale_init: float = math.exp(-2)
    steps_per_call: int = 500

    def __post_init__(self) -> None:
        """Raises UsageError naming the first field that is impossible."""
        at_least = {
            "bits": 0, "block_size": 0, "codebook_blocks": 1, "scale_ranges": 1, "steps": 1,
            "refine_steps": 0, "wave_blocks": 1, "recode_sweeps": 0, "recode_examples": 1,
            "batch_size": 1, "batch_parts": 1, "data_shards": 1, "steps_per_call": 1,
            "codebook_bytes": 0,
        }  # fmt: skip
        for name, minimum in at_least.items():
            if getattr(self, name) < minimum:
                raise UsageError(f"{name} = {getattr(self, name)}: must be at least {minimum}")
        if self.batch_size % self.data_shards:
            raise UsageError(
                f"batch_size = {self.batch_size}: must be a multiple of the {self.data_shards} "
                "shards of the data"
            )
        if self.batch_size % (self.data_shards * self.batch_parts):
            raise UsageError(
                f"batch_parts = {self.batch_parts}: must divide the "
                f"{self.batch_size // self.data_shards} examples of a batch (of a shard)"
            )
        if self.bits > 30:
            raise UsageError(f"bits = {self.bits}: an index has at most 30 bits")
        if self.scale_ranges > MAX_RANGES:
            raise UsageError(f"scale_ranges = {self.scale_ranges}: must be at most {MAX_RANGES}")
        positive = ("learning_rate", "final_learning_rate", "refine_learning_rate")
        for name in (*positive, "beta_init", "beta_step", "prior_scale_init"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} = {getattr(self, name)}: must be positive and finite")
        if not 0 <= self.refine_beta_step < math.inf:
            raise UsageError(
                f"refine_beta_step = {self.refine_beta_step}: must be finite and at least 0"
            )
        kinds = {"selection": SELECTIONS, "parameterisation": PARAMETERISATIONS}
        for name, known in kinds.items():
            if getattr(self, name) not in known:
                raise UsageError(f"{name} = {getattr(self, name)!r}: must be one of {known}")
        if self.relative_means and self.parameterisation == "mean_kl":
            raise UsageError("relative_means = True: the means of 'mean_kl' are relative already")
