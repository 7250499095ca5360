"""Rotations are numbers of a stream and back; what finds them is integers on every machine."""

import ast
import inspect
import math
import textwrap
from fractions import Fraction

import numpy as np
import pytest

from mrc_jax.errors import FormatError
from mrc_jax.rotation import ans, orthogonal
from mrc_jax.rotation.ans import Stack
from mrc_jax.rotation.orthogonal import ONE, Direction


def stream(seed, count=20000):
    return Stack(np.random.default_rng(seed).bytes(count))


@pytest.mark.parametrize("d", [2, 3, 16, 33])
@pytest.mark.parametrize("bits", [1, 7, 15])
def test_a_rotation_is_popped_and_pushed_back_to_the_last_byte(d, bits):
    grid_bits = [bits if j % 5 != 3 else 0 for j in range(d - 1)]
    stack = stream(d)
    before, bits_before = stack.to_bytes(), stack.bits
    directions = orthogonal.pop_rotation(stack, d, grid_bits)
    wanted = sum(orthogonal.direction_bits(d - j, b) for j, b in enumerate(grid_bits))
    assert bits_before - stack.bits == pytest.approx(wanted, abs=1e-6)
    orthogonal.push_rotation(stack, directions, grid_bits)
    assert stack.to_bytes() == before


def test_the_numbers_of_a_direction_are_all_that_there_are():
    """Two dimensions and M = 1: 2 axes, 2 signs, 3 ratios."""
    found = set()
    for axis in range(2):
        for is_negative in (False, True):
            for ratio in (-1, 0, 1):
                stack = Stack(bytes(100))
                direction = Direction(axis, is_negative, (ratio,))
                orthogonal.push_direction(stack, direction, 1)
                assert stack.bits == pytest.approx(800 + math.log2(12), abs=1e-9)
                assert orthogonal.pop_direction(stack, 2, 1) == direction
                found.add(tuple(orthogonal.unit_vector(direction, 1)))
    half = round(ONE / math.sqrt(2))
    assert found == {
        (x, y) for x in (-half, half) for y in (-half, half)
    } | {(ONE, 0), (-ONE, 0), (0, ONE), (0, -ONE)}  # fmt: skip


@pytest.mark.parametrize("d", [2, 5, 64])
def test_the_matrix_is_orthogonal_and_the_product_of_its_reflections(d):
    grid_bits = [0 if j == 1 else 11 for j in range(d - 1)]
    directions = orthogonal.pop_rotation(stream(d, 40000), d, grid_bits)
    rotation = orthogonal.matrix(d, directions, grid_bits) / ONE
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(d), rtol=0, atol=d * 2.0**-29)
    product = np.eye(d)
    for j, (direction, bits) in enumerate(zip(directions, grid_bits, strict=True)):
        vector = np.insert(np.asarray(direction.ratios, float), direction.axis, 2.0**bits - 1)
        if direction.is_negative:
            vector[direction.axis] *= -1
        if not bits:
            vector = np.eye(d - j)[0]
        vector /= np.linalg.norm(vector)
        np.testing.assert_allclose(rotation[:, j], product[:, j:] @ vector, atol=d * 2.0**-29)
        sign = 1 if vector[0] >= 0 else -1
        normal = vector + sign * np.eye(d - j)[0]
        product[:, j:] @= np.eye(d - j) - 2 * np.outer(normal, normal) / (normal @ normal)
    np.testing.assert_allclose(rotation[:, -1], product[:, -1], atol=d * 2.0**-29)


def guess(grid_bits):
    def correct(j, seen):
        axis = orthogonal.likely_axis(seen)
        ratios = orthogonal.likely_ratios(seen, axis, grid_bits[j])
        return Direction(axis, bool(seen[axis] < 0), tuple(ratios))

    return correct


@pytest.mark.parametrize("seed", range(10))
def test_without_rounding_the_rotation_of_a_triangle_is_found_without_a_correction(seed):
    """Columns of 2**-30, a grid of 2**-11; in these seeds no axis is within rounding of another."""
    d, random = 12, np.random.default_rng(seed)
    grid_bits = [11] * (d - 1)
    directions = orthogonal.pop_rotation(stream(seed), d, grid_bits)
    triangle = np.triu(random.normal(size=(d, d - 1)))
    np.fill_diagonal(triangle, random.uniform(0.5, 1, d - 1))
    turned = orthogonal.matrix(d, directions, grid_bits) / ONE @ triangle
    turned *= ONE / np.linalg.norm(turned, axis=0)
    found = orthogonal.find_directions(turned.astype(np.int64), grid_bits, guess(grid_bits))
    assert [x.ratios for x in found] == [x.ratios for x in directions]
    assert found == directions


class ExactIntegers:
    """The finding of a rotation again, in Python's integers, which have no last bit."""

    def unit_columns(self, values):
        out = []
        for column in values.T.tolist():
            exact = [int(Fraction(x) * 2**24) for x in column]
            over = max(0, max(abs(x) for x in exact).bit_length() - 32)
            exact = [x >> over for x in exact]
            norm = max(1, math.isqrt(sum(x * x for x in exact)))
            out.append([x * ONE // norm for x in exact])
        return out

    def find(self, values, grid_bits, correct):
        columns, seen_all = self.unit_columns(values), []
        for j, bits in enumerate(grid_bits):
            seen = np.asarray(columns[j][j:], np.int64)
            direction = correct(j, seen) if bits else Direction(0, False, (0,) * (len(seen) - 1))
            vector = orthogonal.unit_vector(direction, bits).tolist()
            normal = [vector[0] + (ONE if vector[0] >= 0 else -ONE), *vector[1:]]
            for column in columns[j + 1 :]:
                part = sum(a * b for a, b in zip(normal, column[j:], strict=True))
                assert abs(part) < 2**62
                part //= ONE + abs(vector[0])
                assert all(abs(part * a) < 2**63 for a in normal)
                column[j:] = [c - (part * a >> 30) for c, a in zip(column[j:], normal, strict=True)]
            seen_all.append((seen.tolist(), direction))
        return seen_all


def degenerate_cases():
    random = np.random.default_rng(0)
    d = 24
    near, _ = np.linalg.qr(random.normal(size=(d, d)))
    yield "all the same", np.full((d, d), 65504.0)
    yield "largest, of all signs", np.where(random.integers(2, size=(d, d)), 65504.0, -65504.0)
    yield "subnormal", random.integers(-3, 4, size=(d, d)) * 2.0**-24
    yield "zero", np.zeros((d, d))
    yield "negative zero", -np.zeros((d, d))
    yield "eigenvalues of W W^T all nearly equal", near
    yield "one eigenvalue", np.eye(d)
    yield "rank one", np.outer(random.normal(size=d), random.normal(size=d))
    yield "rank 12", random.normal(size=(d, 12)) @ random.normal(size=(12, d))
    yield "columns equal but for one bit", np.ones((d, d)) + 2.0**-10 * np.eye(d)
    yield "all sizes", random.normal(size=(d, d)) * 2.0 ** random.integers(-24, 13, size=(d, d))
    yield "one large", np.eye(d) * 65504 + 2.0**-24


@pytest.mark.parametrize("case", list(degenerate_cases()), ids=lambda case: case[0])
@pytest.mark.parametrize("bits", [15, 9])
def test_what_is_found_is_that_of_unbounded_integers(case, bits):
    """So no sum leaves 64 bits and no order of summation matters: nothing is rounded by a machine.

    A decoder's intermediate values have the error bound 0 by that; nothing is near a boundary.
    """
    values = case[1].astype(np.float16)
    grid_bits = [0 if j == 4 else bits for j in range(23)]
    directions = orthogonal.pop_rotation(stream(bits), 24, grid_bits)
    for correct in (guess(grid_bits), lambda j, _: directions[j]):
        seen = []

        def keep(j, values, correct=correct, seen=seen):
            direction = correct(j, values)
            seen.append((values.tolist(), direction))
            return direction

        columns = orthogonal.unit_columns(values)
        np.testing.assert_array_equal(columns, np.transpose(ExactIntegers().unit_columns(values)))
        orthogonal.find_directions(columns, grid_bits, keep)
        wanted = ExactIntegers().find(values, grid_bits, correct)
        assert seen == [x for x, bits in zip(wanted, grid_bits, strict=True) if bits]


def test_the_nearest_ratios_are_the_nearest():
    random = np.random.default_rng(3)
    for bits in (1, 4, 15):
        seen = random.integers(-ONE, ONE, size=50)
        axis = orthogonal.likely_axis(seen)
        width = 2**bits - 1
        found = orthogonal.likely_ratios(seen, axis, bits)
        for ratio, value in zip(found, np.delete(seen, axis).tolist(), strict=True):
            assert abs(ratio - Fraction(value * width, abs(int(seen[axis])))) <= Fraction(1, 2)
    assert orthogonal.likely_ratios(np.asarray([5, 0, -9]), 0, 2) == [0, -3]
    assert orthogonal.likely_ratios(np.zeros(3, np.int64), 1, 2) == [0, 0]


def test_values_that_are_not_finite_are_refused():
    for value in (np.inf, -np.inf, np.nan):
        with pytest.raises(FormatError, match="not finite"):
            orthogonal.unit_columns(np.asarray([[value], [1.0]], np.float16))


def test_no_step_of_the_finding_divides_or_rounds_in_floats():
    floats = {"float", "sqrt", "round", "float64", "float32", "linalg", "sum", "mean"}
    used = [orthogonal.unit_vector, orthogonal.reflect, orthogonal.unit_columns]
    used += [orthogonal.find_directions, orthogonal.likely_axis, orthogonal.likely_ratios]
    used += [ans.Stack.push, orthogonal.push_direction, orthogonal.push_rotation]
    for function in used:
        for node in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(function)))):
            assert not isinstance(node, ast.Div)
            assert not (isinstance(node, ast.Constant) and isinstance(node.value, float))
            assert not (isinstance(node, ast.Attribute) and node.attr in floats)
