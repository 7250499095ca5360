"""What a compression trains and codes: the state, and all that does not change."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax

from mrc_jax import mean_kl
from mrc_jax.budget import budget_nats
from mrc_jax.container import Header
from mrc_jax.objective import slot_order
from mrc_jax.posterior import Posterior
from mrc_jax.recipe import Recipe
from mrc_jax.samples import Coded, Parameters

Loss = Callable[[Any, Any], chex.Array]  # (outputs, targets) -> nats, a mean or one per example
Augment = Callable[[Any, chex.PRNGKey], Any]  # (inputs of a batch, key) -> inputs
Teacher = Callable[[Any, Any], Any]  # (weights, inputs) -> targets


@chex.dataclass(frozen=True)
class State:
    """All that training and coding change; a pytree.

    Attributes:
      step: int32, training steps done.
      key: raw private key data, uint32[...].
      params: what is trained; `Problem.gaussian` makes the posterior's of them.
      uncoded: the posterior's 'uncoded' collection.
      opt_state: of Adam.
      betas: float32[blocks].
      coded: the entries coded so far.
      indices: uint32[blocks], chosen so far.
    """

    step: chex.Array
    key: chex.Array
    params: Any
    uncoded: Any
    opt_state: Any
    betas: chex.Array
    coded: Coded
    indices: chex.Array


@dataclasses.dataclass(frozen=True)
class Problem:
    """What training does not change.

    Attributes:
      posterior: the module.
      loss: of (outputs, targets).
      header: the plan of the file.
      recipe: the settings.
      file_bytes: the limit of the whole file's size.
      net_kwargs: keyword arguments of the network in training, as a tuple of pairs.
      augment: changes the inputs of each batch at random, by a key of the step's own, so that a
        run that is resumed sees the same; None leaves them as they are.
      mesh: the devices that share the work, see `mesh.axes_of`; None: one.
      teacher: of (arrays["teacher"], inputs of a batch or a part of it, as augment changed them):
        the targets, in place of the batch's own; None: those.
    """

    posterior: Posterior
    loss: Loss
    header: Header
    recipe: Recipe
    file_bytes: int
    net_kwargs: tuple[tuple[str, Any], ...] = ()
    augment: Augment | None = None
    mesh: jax.sharding.Mesh | None = None
    teacher: Teacher | None = None

    @property
    def budget_nats(self) -> float:
        """KL target of a block."""
        return budget_nats(self.header, self.recipe)

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """Adam, its rate falling by a cosine until the first block is coded, then constant."""
        recipe = self.recipe
        return adam(recipe.learning_rate, recipe.final_learning_rate, recipe)

    def gaussian(self, params: Any, arrays: Any) -> Parameters:
        """The posterior's mean, log_variance and log_prior_scale that trained parameters stand for.

        Args:
          params: of `State`.
          arrays: of `index_arrays`.
        """
        if self.recipe.parameterisation == "mean_variance":
            return params
        sharing, partition = self.posterior.sharing, self.header.partition
        return mean_kl.gaussian(params, sharing, partition, arrays["order"], self.budget_nats)

    def outputs(
        self, arrays: Any, uncoded: Any, entries: chex.Array, inputs: Any, dropout: chex.PRNGKey
    ) -> tuple[Any, Any]:
        """What the network gives in training, and the 'uncoded' after it.

        Args:
          arrays: of `index_arrays`.
          uncoded: of `State`.
          entries: the coded vector, float32[entries].
          inputs: of a batch or a part of it.
          dropout: key of the network's 'dropout'.
        """
        outputs, updated = self.posterior.apply(
            {"params": {"mean": entries}, "sharing": arrays["sharing"], "uncoded": uncoded},
            inputs,
            sample=False,
            rngs={"dropout": dropout},
            mutable=["uncoded"],
            **dict(self.net_kwargs),
        )
        return outputs, updated.get("uncoded", uncoded)

    def index_arrays(self, sharing: Any) -> dict[str, Any]:
        """The constant arrays that the compiled programs take as an argument.

        Args:
          sharing: the posterior's 'sharing' collection.
        """
        order = jax.jit(slot_order, static_argnums=(0, 1))(self.header.partition, self.header.seed)
        return {"sharing": sharing, "order": order}


def adam(rate: Any, final_rate: Any, recipe: Recipe) -> optax.GradientTransformation:
    """Adam of `Problem.optimizer` with other rates, numbers or scalars of a compiled program."""
    cosine = optax.cosine_decay_schedule(rate, recipe.steps, final_rate / rate)
    after = optax.constant_schedule(recipe.refine_learning_rate)
    return optax.adam(optax.join_schedules([cosine, after], [recipe.steps]))


def init_state(problem: Problem, arrays: Any, variables: Any, key: chex.PRNGKey) -> State:
    """The state before the first step, from the posterior's variables."""
    header, params, beta = problem.header, variables["params"], problem.recipe.beta_init
    if problem.recipe.parameterisation == "mean_kl":
        sharing, order = problem.posterior.sharing, arrays["order"]
        params = mean_kl.start(params, sharing, header.partition, order, problem.budget_nats)
        beta = 0.0  # the KL is the budget without
    return State(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.bits(key, (2,), jnp.uint32),
        params=params,
        uncoded=variables.get("uncoded", {}),
        opt_state=problem.optimizer.init(params),
        betas=jnp.full(header.blocks, beta, jnp.float32),
        coded=Coded.none(header.entries),
        indices=jnp.zeros(header.blocks, jnp.uint32),
    )


def private_key(state: State) -> chex.PRNGKey:
    """The key of all that the decoder never sees."""
    return jax.random.wrap_key_data(state.key, impl="threefry2x32")
