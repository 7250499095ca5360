"""A trained posterior, or one whose blocks are coded, to the bytes of a file."""

import dataclasses
from collections.abc import Callable, Mapping

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mrc_jax import index_codes
from mrc_jax.container import Container, Header, little_endian, pack
from mrc_jax.encode import encode_vector
from mrc_jax.mesh import everywhere, replicated
from mrc_jax.posterior import log_prior_scale_of_entries, prior_scale
from mrc_jax.samples import Parameters
from mrc_jax.sharing import Sharing


def encode_file(
    key: chex.PRNGKey,
    params: Parameters,
    uncoded: Mapping[str, chex.Array],
    sharing: Sharing,
    header: Header,
    selection: str = "sample",
    kernel: str = "codebook",
    mesh: jax.sharding.Mesh | None = None,
    file_bytes: int | None = None,
) -> bytes:
    """The file of a trained posterior, all blocks coded at once without refining.

    Args:
      key: private randomness.
      params, uncoded: of the posterior.
      sharing, header: the map and the plan that it was trained with.
      selection: see Recipe.
      kernel, mesh: see `encode_blocks`.
      file_bytes: the limit of an 'ordered' file, whose length is not known before; None for none.
    """
    frozen = {**params, "log_prior_scale": jnp.log(prior_scale(params, sharing))}
    static = ("partition", "bits", "codebook_blocks", "selection", "kernel", "mesh", "reach")
    program = jax.jit(encode_vector, static_argnames=static, out_shardings=everywhere(mesh))

    scale = jax.jit(lambda frozen: jnp.exp(log_prior_scale_of_entries(frozen, sharing)))(frozen)
    vectors = replicated((params["mean"], params["log_variance"], scale), mesh)

    def indices(reach: int | None = None) -> np.ndarray:
        chosen = program(
            key,
            *vectors,
            np.uint32(header.seed),
            partition=header.partition,
            bits=header.bits,
            codebook_blocks=header.codebook_blocks,
            selection=selection,
            kernel=kernel,
            mesh=mesh,
            reach=reach,
        )
        return np.asarray(chosen)

    def file_of(indices: np.ndarray) -> bytes:
        return shortest(container_of(indices, frozen, uncoded, sharing, header), selection)

    chosen = indices()
    data = file_of(chosen)
    if file_bytes is None or len(data) <= file_bytes:
        return data
    return _within(file_bytes, chosen, indices, file_of, header.bits)


def _within(
    file_bytes: int,
    farther: np.ndarray,
    indices: Callable[[int], np.ndarray],
    file_of: Callable[[np.ndarray], bytes],
    bits: int,
) -> bytes:
    """The file whose first blocks look as far as fits; the others look half as far."""
    reach = bits - 1
    nearer = indices(reach)
    while reach > 0 and len(file_of(nearer)) > file_bytes:
        reach -= 1
        farther, nearer = nearer, indices(reach)
    data = file_of(nearer)
    fits, too_many = 0, len(farther)
    while too_many - fits > 1:
        count = (fits + too_many) // 2
        mixed = file_of(np.concatenate([farther[:count], nearer[count:]]))
        if len(mixed) <= file_bytes:
            fits, data = count, mixed
        else:
            too_many = count
    return data


def container_of(
    indices: chex.Array | np.ndarray,
    params: Parameters,
    uncoded: Mapping[str, chex.Array],
    sharing: Sharing,
    header: Header,
) -> Container:
    """Chosen indices and the posterior's side information as the parts of a file."""
    scales = np.asarray(prior_scale(params, sharing), np.float32).view(np.uint32) >> 16
    tensors = [t for t in sharing.manifest.tensors if not t.factor]
    stored = b"".join(little_endian(np.asarray(uncoded[t.path])) for t in tensors)
    return Container(header, scales.astype(np.uint16), stored, np.asarray(indices))


def shortest(container: Container, selection: str) -> bytes:
    """The file's bytes: ordered indices are entropy-coded, unless that makes the file longer."""
    fixed = pack(container)
    if selection != "ordered":
        return fixed
    header = dataclasses.replace(container.header, index_code=index_codes.ORDERED)
    return min(fixed, pack(dataclasses.replace(container, header=header)), key=len)
