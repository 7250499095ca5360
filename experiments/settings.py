"""A config file as one frozen, typed object, checked once at the door."""

import dataclasses
import difflib
import json
import math
import typing
from typing import Any

import ml_collections

from experiments.data import NAMES
from experiments.identity import hash_of
from mrc_jax.errors import UsageError
from mrc_jax.mesh import axes_of
from mrc_jax.recipe import Recipe

MODELS = ("mlp", "lenet5", "vgg16", "resnet20", "vgg8")
NORMALISED = ("vgg16", "resnet20", "vgg8")  # with batch norm, which is folded
AUGMENTS = ("none", "crop_flip", "crop_flip_cutout")
PLACES = ("data_dir", "start_from")  # that a config names and its record does not
OPTIMIZERS = ("adam", "sgd", "muon")


@dataclasses.dataclass(frozen=True)
class Config:
    """Every field of a run; those that Recipe has too mean what they mean there.

    Attributes:
      name: of the experiment, for plots.
      file_bytes: the size promised for the whole file.
      mesh: the devices that share the work, see `mrc_jax.mesh.axes_of`; '' is one.
      data, data_dir: which data set, and where its files are.
      hold_out: whether the validation examples are kept apart; False trains on them too and tells
        no validation error: for a recipe that stands.
      distorted_copies: of the training images, by `experiments.distort`.
      distortion: their strength there.
      originals: how often each training image itself stands beside its copies.
      augment: what each step does to the images of its batch, see `experiments.augment`.
      model, hidden: the network, and the widths of an mlp's hidden layers.
      factored: whether lenet5's kernels are coded by `mrc_jax.models.factored`.
      width: channels of the first convolution of one of NORMALISED; 0: as published.
      plain_steps, plain_learning_rate: training of the uncompressed network.
      plain_optimizer: of it, 'adam', 'sgd' or 'muon', see `experiments.plain_training`.
      plain_weight_decay: a step takes this share times the rate from its weights; with 'sgd' this
        share of the weights is added to their gradient.
      plain_batch_size: examples of a step of it; 0: batch_size.
      plain_augment: what plain training does to images; '': what augment says.
      plain_label_smoothing: share of a label that is spread evenly over all classes there.
      start_from: the work directory of a run: the posterior starts where its stood before coding.
      start_from_plain: whether the means start at the plain network's, where start_from is ''.
      plain_noise: with start_from_plain, the standard deviations at the start in units of the root
        mean square of their group's means, which is its prior scale at the start (groups of a
        tensor that has several: from sqrt(2) times to sqrt(1/8) of theirs), see
        `mrc_jax.posterior.scaled_start`; 0: log_std_init and prior_scale_init as they are.
      budget_start: whether blocks start at their KL budgets, with betas to match and the least
        noise where the loss is curved most, see `mrc_jax.laplace`; plain_noise is then the noise
        under which that is measured.
      distil: whether its outputs are the targets of the posterior's training, in place of labels;
        with an augment those of the images as each step changes them.
      seed: of everything random.
      data_shards: as in Recipe; 0: as many as the devices that share the batches.
      checkpoint_every_s: seconds between checkpoints.
      report_test: whether the report reads the test set.
      tensorboard: whether to write TensorBoard scalars too.
    """

    name: str
    file_bytes: int
    data: str
    model: str
    plain_steps: int
    steps: int
    refine_steps: int
    data_dir: str = ""
    hold_out: bool = True
    distorted_copies: int = 0
    distortion: float = 1.0
    originals: int = 1
    augment: str = "none"
    hidden: tuple[int, ...] = ()
    factored: bool = False
    width: int = 0
    plain_learning_rate: float = 1e-3
    plain_optimizer: str = "adam"
    plain_weight_decay: float = 0.0
    plain_batch_size: int = 0
    plain_augment: str = ""
    plain_label_smoothing: float = 0.0
    start_from: str = ""
    start_from_plain: bool = False
    plain_noise: float = 0.0
    budget_start: bool = False
    distil: bool = False
    seed: int = 0
    mesh: str = ""
    data_shards: int = 0
    checkpoint_every_s: float = 60.0
    report_test: bool = False
    tensorboard: bool = False
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
    wave_blocks: int = 1
    recode_sweeps: int = 0
    recode_examples: int = 1000
    batch_size: int = 128
    batch_parts: int = 1
    learning_rate: float = 1e-3
    final_learning_rate: float = 3e-4
    refine_learning_rate: float = 3e-4
    beta_init: float = 1e-6
    beta_step: float = 5e-4
    refine_beta_step: float = 0.0
    log_std_init: float = -5.0
    prior_scale_init: float = 0.1353352832366127
    steps_per_call: int = 500

    def __post_init__(self) -> None:
        """Raises UsageError naming the first field that is impossible."""
        kinds = {
            "data": NAMES,
            "model": MODELS,
            "augment": AUGMENTS,
            "plain_augment": ("", *AUGMENTS),
            "plain_optimizer": OPTIMIZERS,
        }
        for name, known in kinds.items():
            if getattr(self, name) not in known:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r}: must be one of "
                    + ", ".join(filter(None, known))
                )
        if not self.name.isprintable() or not self.name:
            raise UsageError(f"name = {self.name!r}: must be one line of text")
        for name in ("file_bytes", "plain_steps", "originals"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.distorted_copies < 0:
            raise UsageError(f"distorted_copies = {self.distorted_copies}: must be at least 0")
        if not self.hold_out and self.data == "digits":
            raise UsageError("hold_out = False: the digits' validation images are always apart")
        self._check_network()
        for pattern, factor in self.sharing:
            if factor < 1:
                raise UsageError(f"sharing: factor {factor} of {pattern!r}: must be at least 1")
        if not 0 <= self.seed < 1 << 31:
            raise UsageError(f"seed = {self.seed}: must be between 0 and 2^31 - 1")
        for name in ("slack_nats", "log_std_init"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} = {getattr(self, name)}: must be finite")
        for name in ("plain_learning_rate", "checkpoint_every_s", "distortion"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} = {getattr(self, name)}: must be positive and finite")
        if self.data_shards < 0 or self.shards % math.prod(axes_of(self.mesh).values()):
            raise UsageError(
                f"data_shards = {self.data_shards}: must be a multiple of the devices of the mesh, "
                f"{self.mesh!r}, or 0"
            )
        self._check_plain()
        self.recipe()

    def _check_network(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise UsageError(f"hidden = {self.hidden}: widths must be at least 1")
        if self.hidden and self.model != "mlp":
            raise UsageError(f"hidden = {self.hidden}: only an mlp has it; leave it empty")
        if self.factored and self.model != "lenet5":
            raise UsageError(f"factored: only lenet5 has factors, not {self.model!r}")
        if self.width < 0 or (self.width and self.model not in NORMALISED):
            names = ", ".join(NORMALISED)
            raise UsageError(f"width = {self.width}: only {names} have it; 0 is the published")

    def _check_plain(self) -> None:
        possible = self.start_from_plain and self.parameterisation != "mean_kl"
        if not 0 <= self.plain_noise < math.inf or (self.plain_noise and not possible):
            raise UsageError(
                f"plain_noise = {self.plain_noise}: must be finite and at least 0, and 0 without "
                "start_from_plain or with 'mean_kl'"
            )
        if self.start_from and self.parameterisation == "mean_kl":
            raise UsageError(
                "start_from: with 'mean_kl' a posterior belongs to its blocks' budgets"
            )
        if self.budget_start and not self.plain_noise:
            raise UsageError("budget_start: needs a plain_noise above 0, such as 0.1")
        if not 0 <= self.plain_weight_decay < math.inf:
            raise UsageError(
                f"plain_weight_decay = {self.plain_weight_decay}: must be finite and at least 0"
            )
        if not 0 <= self.plain_label_smoothing < 1:
            raise UsageError(
                f"plain_label_smoothing = {self.plain_label_smoothing}: must be at least 0 and "
                "less than 1"
            )
        if self.plain_batch_size < 0 or self.plain_batch_size % self.shards:
            raise UsageError(
                f"plain_batch_size = {self.plain_batch_size}: must be 0 or a multiple of the "
                f"{self.shards} shards of the data"
            )

    @classmethod
    def from_config_dict(cls, config: ml_collections.ConfigDict) -> "Config":
        """The typed config.

        Raises:
          UsageError: a field is unknown, missing, of another type or impossible.
        """
        types = typing.get_type_hints(cls)
        values = {}
        for name, value in config.items():
            if name not in types:
                near = difflib.get_close_matches(str(name), types, 1)
                hint = f"did you mean {near[0]}?" if near else "configs/default.py lists them all"
                raise UsageError(f"unknown config field {name!r}; {hint}")
            values[name] = _typed(name, value, types[name])
        for field in dataclasses.fields(cls):
            if field.default is dataclasses.MISSING and field.name not in values:
                raise UsageError(f"the config has no field {field.name!r}; give it")
        return cls(**values)

    def check_held_out(self) -> None:
        """For what compares validation errors. Raises UsageError where none are kept apart."""
        if not self.hold_out:
            raise UsageError("hold_out = False: this compares validation errors; leave it True")

    def recipe(self) -> Recipe:
        """The library's share of the config."""
        names = {field.name for field in dataclasses.fields(Recipe)}
        values = {name: getattr(self, name) for name in names}
        return Recipe(**{**values, "data_shards": self.shards})

    @property
    def shards(self) -> int:
        """The shards of the data."""
        return self.data_shards or math.prod(axes_of(self.mesh).values())

    def as_dict(self) -> dict[str, Any]:
        """The config as JSON has it, but for data_dir and start_from: places, not settings."""
        values = dataclasses.asdict(self)
        for name in PLACES:
            del values[name]
        return json.loads(json.dumps(values))

    @classmethod
    def with_defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The `as_dict` of an older version, with the fields that have been added since."""
        fields = (f for f in dataclasses.fields(cls) if f.name not in PLACES)
        known = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
        return {**json.loads(json.dumps(known)), **values}

    @property
    def config_hash(self) -> str:
        """SHA-256 of the config's canonical JSON."""
        return hash_of(self.as_dict())


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value with whole numbers made floats and lists made tuples where the field has them."""
    if kind is float and type(value) is int:
        return float(value)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        if isinstance(value, list | tuple):
            kinds = (inner[0],) * len(value) if inner[-1] is Ellipsis else inner
            if len(kinds) == len(value):
                return tuple(_typed(name, v, k) for v, k in zip(value, kinds, strict=True))
    elif type(value) is kind:
        return value
    wanted = kind.__name__ if type(kind) is type else str(kind)
    raise UsageError(f"config field {name}: {value!r} where a value of type {wanted} belongs")
