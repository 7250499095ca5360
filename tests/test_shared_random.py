"""The shared randomness: known answers, one law, and the same integers everywhere."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fresh_process import output_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mrc_jax import shared_random
from mrc_jax.errors import FormatError
from mrc_jax.shared_random import Stream, offsets, permute, quantiles, sign_bits, threefry

ONES = 0xFFFFFFFF
KNOWN_ANSWERS = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((ONES, ONES), (ONES, ONES), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
SEEDS = (0, 1, ONES)


def modules():
    return pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])


def test_threefry_gives_the_published_known_answers_for_numpy_scalars():
    for key, counter, expected in KNOWN_ANSWERS:
        words = threefry(
            tuple(map(np.uint32, key)), tuple(np.asarray(c, np.uint32) for c in counter)
        )
        assert tuple(int(w) for w in words) == expected


@modules()
def test_threefry_gives_the_published_known_answers_for_arrays(xp):
    keys, counters, expected = (
        [xp.asarray([row[part][word] for row in KNOWN_ANSWERS], np.uint32) for word in (0, 1)]
        for part in (0, 1, 2)
    )
    words = threefry(tuple(keys), tuple(counters))
    for word, wanted in zip(words, expected, strict=True):
        assert word.dtype == np.uint32
        np.testing.assert_array_equal(word, wanted)


def test_jax_scalars_give_the_known_answers_under_jit():
    for key, counter, expected in KNOWN_ANSWERS:
        key, counter = (tuple(jnp.uint32(v) for v in pair) for pair in (key, counter))
        assert tuple(int(w) for w in jax.jit(threefry)(key, counter)) == expected


@settings(max_examples=12, deadline=None)
@given(st.integers(0, ONES), st.integers(1, 9), st.integers(0, ONES), st.integers(0, ONES))
def test_numpy_and_jax_quantiles_are_the_same_numbers(seed, size, codebook, candidate):
    arguments = (
        np.asarray([[codebook], [(codebook + 1) & ONES]], np.uint32),
        np.asarray([candidate, candidate ^ 1, 0], np.uint32),
    )
    drawn = quantiles(np.uint32(seed), *arguments, size)
    assert drawn.shape == (size, 2, 3) and drawn.dtype == np.int16
    on_jax = quantiles(jnp.uint32(seed), *map(jnp.asarray, arguments), size)
    assert on_jax.dtype == np.int16
    np.testing.assert_array_equal(drawn, on_jax)


def test_a_lane_takes_its_16_bits_of_the_documented_counter():
    seed, codebook, candidate, size = 7, 3, 11, 10
    drawn = quantiles(np.uint32(seed), np.uint32([codebook]), np.uint32([candidate]), size)[:, 0]
    for lane in range(size):
        counter = (np.uint32(candidate), np.uint32(codebook * 3 + lane // 4))
        words = threefry((np.uint32(0x6D726300), np.uint32(seed)), counter)
        field = int(words[lane % 4 // 2]) >> 16 * (lane % 2) & 0xFFFF
        assert drawn[lane] == shared_random.normal_table()[field]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, ONES), st.integers(1, 200), st.integers(0, ONES))
def test_numpy_and_jax_sign_bits_are_the_same_and_as_documented(seed, count, row):
    rows = np.asarray([row, row ^ 5], np.uint32)
    bits = sign_bits(np.uint32(seed), Stream.CODEBOOK_SIGNS, rows, count)
    assert bits.shape == (2, count) and bits.dtype == bool
    on_jax = sign_bits(jnp.uint32(seed), Stream.CODEBOOK_SIGNS, jnp.asarray(rows), count)
    np.testing.assert_array_equal(bits, on_jax)
    last = count - 1
    key = (np.uint32(0x6D726300 + Stream.CODEBOOK_SIGNS), np.uint32(seed))
    low, high = (int(w) for w in threefry(key, (np.uint32(last // 64), np.uint32(row))))
    assert bits[0, last] == bool((high << 32 | low) >> last % 64 & 1)


@modules()
def test_sign_bits_may_begin_at_any_multiple_of_64(xp):
    rows, seed = xp.asarray([3, 9], np.uint32), xp.asarray(5, np.uint32)
    whole = sign_bits(seed, Stream.SHARING_SIGNS, rows, 300)
    part = sign_bits(seed, Stream.SHARING_SIGNS, rows, 130, xp.asarray(128, np.uint32))
    np.testing.assert_array_equal(part, whole[:, 128:258])


@modules()
def test_threefry_leaves_its_arguments_as_they_are(xp):
    key, counter = (
        [xp.arange(4 * i, 4 * i + 4, dtype=np.uint32) for i in j] for j in ((0, 1), (2, 3))
    )
    threefry(tuple(key), tuple(counter))
    np.testing.assert_array_equal(np.concatenate([*key, *counter]), np.arange(16))


def test_the_normal_table_is_the_rounded_quantile_function():
    table = shared_random.normal_table()
    exact = special.ndtri((np.arange(65536) + 0.5) / 65536)
    np.testing.assert_array_equal(table, np.rint(4096 * exact).astype(np.int16))
    assert table.max() == 17_715 and not table.flags.writeable


def test_a_damaged_normal_table_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    data = bytearray(shared_random.normal_table().astype("<i2").tobytes())
    data[70_001] ^= 1
    (folder / "normal_table.bin").write_bytes(data)
    monkeypatch.setattr(shared_random.importlib.resources, "files", lambda package: tmp_path)
    shared_random.normal_table.cache_clear()
    try:
        with pytest.raises(FormatError, match="damaged"):
            shared_random.normal_table()
    finally:
        shared_random.normal_table.cache_clear()


@pytest.mark.parametrize("seed", SEEDS)
def test_no_jax_key_of_a_seed_is_a_key_of_the_shared_randomness(seed):
    high, low = (int(w) for w in jax.random.key_data(jax.random.key(seed, impl="threefry2x32")))
    assert low == seed
    for stream in Stream:
        first, second = shared_random.stream_key(np.uint32(seed), stream)
        assert int(second) == seed and int(first) != high
        assert int(first) >> 8 == 0x6D7263 and int(first) & 0xFF == stream


def chi_square(counts, expected):
    """The p-value of counts against equal or given expectations."""
    return stats.chisquare(counts, expected).pvalue


def test_quantiles_follow_the_normal_law_in_every_lane():
    """False alarm 1e-4 for each lane; a shift by 0.01 or a scale 1 % off is rejected."""
    candidate = np.arange(1 << 17, dtype=np.uint32)
    z = quantiles(np.uint32(5), np.uint32([2]), candidate, 6) / 4096
    edges = special.ndtri(np.arange(1, 64) / 64)

    def p_value(values):
        counts = np.bincount(np.searchsorted(edges, values), minlength=64)
        return chi_square(counts, np.full(64, len(values) / 64))

    for lane in z:
        assert p_value(lane) > 1e-4
    every = z.ravel()
    assert p_value(every) > 1e-4
    assert p_value(every + 0.01) < 1e-4
    assert p_value(every * 1.01) < 1e-4


def test_lanes_candidates_and_codebooks_are_independent():
    """False alarm 1e-4 a pair (chi-square on 8 x 8 cells); a lane read twice is rejected."""
    candidate = np.arange(1 << 15, dtype=np.uint32)
    one, two = (quantiles(np.uint32(5), np.uint32([b]), candidate, 6) for b in (0, 1))
    pairs = [(one[i], one[j]) for i in range(6) for j in range(i)]
    pairs += [(one[i], two[j]) for i in range(6) for j in range(6)]
    pairs += [(lane[:-1], lane[1:]) for lane in one]
    edges = np.rint(4096 * special.ndtri(np.arange(1, 8) / 8))

    def p_value(x, y):
        cell = np.searchsorted(edges, x) * 8 + np.searchsorted(edges, y)
        counts = np.bincount(cell, minlength=64)
        return stats.chi2_contingency(counts.reshape(8, 8)).pvalue

    assert min(p_value(x, y) for x, y in pairs) > 1e-4 / len(pairs)
    assert p_value(one[0], one[0]) < 1e-12


DIGEST = """
import hashlib, jax, jax.numpy as jnp, numpy as np
from mrc_jax.shared_random import Stream, permute, quantiles, sign_bits
index = jnp.arange(1000, dtype=jnp.uint32)
seed = jnp.uint32(4294967295)
out = [
    quantiles(seed, index[:3, None], index, 7),
    sign_bits(seed, Stream.CODEBOOK_SIGNS, index[:9], 77),
    jax.jit(lambda i: permute(i, 1001, seed, Stream.SHARING, 3))(index),
    permute(index, 4294967295, seed, Stream.BLOCKS),
]
digest = hashlib.sha256(b"".join(np.asarray(x).tobytes() for x in out)).hexdigest()
print(digest, [str(x.dtype) for x in out])
"""


@pytest.mark.parametrize(
    "setting",
    ["as users have it", "rbg", "x64", pytest.param("eight_devices", marks=pytest.mark.slow)],
)
def test_the_integers_do_not_depend_on_jax_settings(setting):
    index, seed = np.arange(1000, dtype=np.uint32), np.uint32(ONES)
    out = [
        quantiles(seed, index[:3, None], index, 7),
        sign_bits(seed, Stream.CODEBOOK_SIGNS, index[:9], 77),
        permute(index, 1001, seed, Stream.SHARING, 3),
        permute(index, ONES, seed, Stream.BLOCKS),
    ]
    digest = hashlib.sha256(b"".join(x.tobytes() for x in out)).hexdigest()
    assert output_of(DIGEST, setting) == f"{digest} {[str(x.dtype) for x in out]}"


@pytest.mark.parametrize("bits", [1, 13, 30])
def test_offsets_are_the_same_low_bits_everywhere(bits):
    block = np.asarray([0, 1, 2, 10**6, ONES], np.uint32)
    for seed in SEEDS:
        found = offsets(np.uint32(seed), block, bits)
        on_jax = jax.jit(offsets, static_argnums=2)(jnp.uint32(seed), jnp.asarray(block), bits)
        assert found.dtype == on_jax.dtype == np.uint32 and found.shape == block.shape
        np.testing.assert_array_equal(found, on_jax)
        np.testing.assert_array_equal(found, offsets(np.uint32(seed), block, 30) % (1 << bits))
