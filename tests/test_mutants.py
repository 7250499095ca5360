"""Mutants of the golden files, their checksums right, are refused or decoded as documented."""

import collections

import independent_decoder
import pytest
from golden_files import golden
from hostile_files import limited_memory, sealed, survives
from mutants import NAMES, fields_of, joined, mutant

from mrc_jax.decode import decode, find_manifest, parsed
from mrc_jax.manifest import varint

FEW = 64  # parameters: quick for the independent decoder


def outcome(number: int) -> str:
    """What becomes of a mutant; one of few parameters has to decode as the document says."""
    data, supplied = mutant(number)
    if not survives(data, supplied):
        return "refused"
    network = find_manifest(parsed(data).header, supplied)
    if network.parameters > FEW:
        return "decoded"
    decoded = independent_decoder.decode(data, supplied)
    independent_decoder.words.cache_clear()
    assert decoded == [(path, array.tobytes()) for path, array in decode(data, supplied).items()]
    return "decoded twice"


def run(numbers: range) -> collections.Counter[str]:
    """How many have which outcome; a failure names the mutant."""
    found: collections.Counter[str] = collections.Counter()
    with limited_memory():
        for number in numbers:
            try:
                found[outcome(number)] += 1
            except (Exception, RecursionError) as error:
                raise AssertionError(f"mutant {number}: {error!r}") from error
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_fields_are_those_of_the_file(name):
    data, supplied = golden(name)
    before, network, counts, after = map(joined, fields_of(name))
    header = parsed(data).header
    middle = varint(len(network)) + network
    if supplied is not None:
        assert network == supplied
        middle = header.fingerprint + counts
    assert sealed(before + middle + after) == data


def test_a_mutant_is_the_same_every_time_and_few_are_alike():
    made = [mutant(number) for number in range(500)]
    assert made == [mutant(number) for number in range(500)]
    assert len(set(made)) > 400


def test_three_thousand_mutants_are_refused_or_decoded():
    found = run(range(3000))
    assert min(found[how] for how in ("refused", "decoded", "decoded twice")) > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_thousand_mutants_are_refused_or_decoded():
    found = run(range(200_000))
    print(found)
    assert sum(found.values()) == 200_000 and found["decoded twice"] > 10_000
