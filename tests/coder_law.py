"""What the law of the coder should be: in float64, from the values that a file decodes to."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from mrc_jax import container, encode
from mrc_jax.blocks import Partition, slot_of_entry
from mrc_jax.decode import coded_vector
from mrc_jax.manifest import Manifest, Tensor

SEED = 20_240
KEYS = 20_000


def select_one(key, a, c, seed, bits, selection="sample", kernel="reference"):
    """The index chosen for block 0, alone with its codebook 0; a, c: float32[size]."""
    zero = jnp.uint32(0)
    blocks = encode.Blocks(a[None], c[None], zero[None], jnp.asarray(seed, jnp.uint32), zero)
    return encode.select(key, blocks, bits=bits, selection=selection, kernel=kernel)[0]


class Case:
    """A posterior over a few entries, each with its own prior scale, in blocks.

    Attributes:
      mean, log_variance, scale: float32[entries]; scales are not rounded yet.
      blocks, bits, codebook_blocks: of the file.
    """

    def __init__(self, entries=11, blocks=3, bits=5, codebook_blocks=1, std=0.4, scale=None):
        random = np.random.default_rng(1)
        self.scale = random.uniform(0.2, 2, entries) if scale is None else np.full(entries, scale)
        self.scale = self.scale.astype(np.float32)
        self.mean = (self.scale * random.normal(0, 0.7, entries)).astype(np.float32)
        std = self.scale * random.uniform(std, 1.5 * std, entries)
        self.log_variance = (2 * np.log(std)).astype(np.float32)
        self.entries, self.blocks, self.bits = entries, blocks, bits
        self.codebook_blocks = codebook_blocks

    def drawn(self, keys=KEYS, seed=0):
        """uint32[keys, blocks]: the indices that the encoder chooses with fresh private keys."""

        def one(key):
            return encode.encode_blocks(
                key,
                jnp.asarray(self.mean),
                jnp.asarray(self.log_variance),
                jnp.asarray(self.scale),
                jnp.uint32(SEED),
                bits=self.bits,
                block_size=-(-self.entries // self.blocks),
                codebook_blocks=self.codebook_blocks,
            )

        every = jax.random.split(jax.random.key(seed), keys)
        return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=2000))(every))

    def decoded(self, index):
        """float32[entries]: what a file decodes to whose blocks all have this index."""
        tensors = tuple(Tensor(f"t{i:03d}", (1,), "float32", 1) for i in range(self.entries))
        header = container.Header.of(
            Manifest(tensors),
            True,
            seed=SEED,
            blocks=self.blocks,
            bits=self.bits,
            codebook_blocks=self.codebook_blocks,
        )
        indices = np.full(self.blocks, index, np.uint32)
        bits16 = np.asarray(jnp.asarray(self.scale, jnp.bfloat16)).view(np.uint16)
        file = container.Container(header, bits16, b"", indices)
        return coded_vector(file, header.manifest)

    def log_weights(self):
        """float64[blocks, K]: log q - log p of every candidate of every block."""
        values = np.stack([self.decoded(k) for k in range(1 << self.bits)]).astype(np.float64)
        scale = np.asarray(jnp.asarray(self.scale, jnp.bfloat16)).astype(np.float64)
        std = np.exp(0.5 * self.log_variance.astype(np.float64))
        ratio = stats.norm.logpdf(values, self.mean.astype(np.float64), std)
        ratio -= stats.norm.logpdf(values, 0, scale)
        partition = Partition(self.entries, self.blocks)
        entry = np.arange(self.entries, dtype=np.uint32)
        block = slot_of_entry(partition, np.uint32(SEED), entry) % self.blocks
        return np.stack([ratio[:, block == b].sum(1) for b in range(self.blocks)])


def chi_square_p_value(counts, probabilities):
    """The p-value of counts; cells that expect fewer than 8 are pooled."""
    expected = probabilities * counts.sum()
    small = expected < 8
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    if wanted[-1] < 8:  # then with the smallest cell that is not
        rest, wanted, observed = (wanted[-1], observed[-1]), wanted[:-1], observed[:-1]
        wanted[np.argmin(wanted)] += rest[0]
        observed[np.argmin(wanted)] += rest[1]
    assert len(wanted) > 1, "one cell cannot be tested"
    return stats.chisquare(observed, wanted).pvalue


def law_p_values(case):
    """p-values: of each block's index, and of the first two blocks' joint law as a product."""
    drawn, K = case.drawn().astype(np.int64), 1 << case.bits
    law = special.softmax(case.log_weights(), axis=1)
    each = [
        chi_square_p_value(np.bincount(drawn[:, b], minlength=K), law[b])
        for b in range(case.blocks)
    ]
    pairs = np.bincount(drawn[:, 0] * K + drawn[:, 1], minlength=K * K)
    return each, chi_square_p_value(pairs, np.outer(law[0], law[1]).ravel())
