"""Code lengths against hand-worked values and against the size of real files."""

import math

import numpy as np
import pytest

from mrc_jax import codelength
from mrc_jax.container import Container, Header, pack, parts
from mrc_jax.manifest import Manifest, Tensor


def test_the_payload_is_what_the_file_holds_beyond_its_other_parts() -> None:
    manifest = Manifest((Tensor("w", (100,), "float32", 1),))
    header = Header.of(manifest, True, seed=1, blocks=33, bits=13)
    container = Container(header, np.array([0x3F80], np.uint16), b"", np.arange(33))
    others = sum(size for name, size in parts(header).items() if name != "indices")
    assert len(pack(container)) - others == math.ceil(codelength.payload_bits(header) / 8)


def test_bounds_at_hand_worked_points() -> None:
    assert codelength.lower_bound_bits(7 * math.log(2)) == pytest.approx(7)
    assert codelength.upper_bound_bits(7 * math.log(2)) == pytest.approx(7 + 3 + 4)
    assert codelength.upper_bound_bits(0.0) == 4


def test_the_bias_bound_falls_as_candidates_are_added() -> None:
    assert codelength.bias_bound(0.0, 0.0) == 1
    assert codelength.bias_bound(-8 * math.log(2), 0.0) == pytest.approx(0.5)
    assert codelength.bias_bound(-8 * math.log(2), 0.01) == pytest.approx(math.sqrt(0.25 + 0.2))
