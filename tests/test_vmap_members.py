"""Members trained together give the numbers of members trained alone."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrc_jax import api, train
from mrc_jax.errors import UsageError
from mrc_jax.recipe import Recipe
from mrc_jax.vmap_members import vmap_members

RANDOM = np.random.default_rng(0)
INPUTS = RANDOM.normal(size=(96, 6)).astype(np.float32)
DATA = (INPUTS, INPUTS @ RANDOM.normal(size=(6, 8)).astype(np.float32))
RECIPE = Recipe(
    bits=8, batch_size=32, steps=80, learning_rate=0.02, final_learning_rate=0.002, beta_init=1e-2,
    beta_step=0.02, log_std_init=-3.0, prior_scale_init=0.5, sharing=(("w", 2),),
)  # fmt: skip


def network(tree, inputs):
    return inputs @ tree["w"] + tree["b"]


def squared(outputs, targets):
    return jnp.mean(jnp.square(outputs - targets), axis=-1)


def member(seed, file_bytes, rate=0.02, recipe=RECIPE):
    tree = {"w": jnp.zeros((6, 8)), "b": jnp.zeros(8)}
    recipe = dataclasses.replace(recipe, learning_rate=rate)
    return api.prepare(network, tree, squared, file_bytes, jax.random.key(seed), recipe)


MEMBERS = {
    "seeds and rates": [(0, 60), (1, 60, 0.01)],
    "sizes too": [(0, 50), (1, 62, 0.01), (2, 55, 0.03)],
}


@pytest.mark.parametrize("which", MEMBERS)
def test_members_together_train_as_each_alone(which):
    made = [member(*values) for values in MEMBERS[which]]
    problems, arrays, states = map(list, zip(*made, strict=True))
    assert len({p.header.blocks for p in problems}) == len({values[1] for values in MEMBERS[which]})
    run = vmap_members(problems, arrays, DATA)
    together = states
    for _ in range(2):  # as a run does, call after call
        together, metrics = run(together, 40)
    for problem, constant, state, found, told in zip(
        problems, arrays, states, together, metrics, strict=True
    ):
        alone = jax.jit(partial(train.train_on_arrays, problem), static_argnames="steps")
        for _ in range(2):
            state, wanted = alone(constant, state, DATA, steps=40)
        assert jax.tree.structure(state) == jax.tree.structure(found)
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(found), strict=True):
            assert a.shape == b.shape and a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
        assert {k: float(v) for k, v in wanted.items()} == pytest.approx(
            {k: float(v) for k, v in told.items()}, rel=1e-3, abs=1e-4
        )


def test_members_that_differ_in_more_are_refused():
    other = dataclasses.replace(RECIPE, batch_size=16)
    made = [member(0, 60), member(0, 60, recipe=other)]
    problems, arrays, _ = zip(*made, strict=True)
    with pytest.raises(UsageError, match="other settings cannot train together"):
        vmap_members(problems, arrays, DATA)
