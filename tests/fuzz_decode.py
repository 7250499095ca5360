"""A coverage-guided search for files that the decoder neither decodes nor refuses.

python tests/fuzz_decode.py CORPUS [libFuzzer's flags]
"""

import sys
import time

import atheris

with atheris.instrument_imports(include=["mrc_jax"]):
    from mrc_jax import description
    from mrc_jax.decode import expand, find_manifest, parsed
    from mrc_jax.errors import FormatError
    from mrc_jax.identity import TURNED_VERSION

import independent_decoder
import independent_turned
from golden_files import FILES, golden
from hostile_files import SECONDS, sealed

LIMIT = 1 << 14  # parameters; larger networks take time and no other path
FEW = 64  # parameters: quick for the independent decoder
MANIFESTS = {
    parsed(data).header.fingerprint: manifest
    for data, manifest in map(golden, FILES)
    if manifest is not None
}


def attempt(body: bytes) -> None:
    """Seals a body and decodes it; whatever is no FormatError, or late, ends the search."""
    data, start = sealed(body), time.thread_time()
    supplied = MANIFESTS.get(body[5:13])
    try:
        file = parsed(data)
        network = find_manifest(file.header, supplied)
        weights = expand(file, network, LIMIT)
        description.text({**description.facts(file, network, data), "file_bytes": len(data)})
    except FormatError as error:
        assert "\n" not in str(error)
        weights = {}
    assert time.thread_time() - start < SECONDS, "it took too long"
    if weights and sum(array.size for array in weights.values()) <= FEW:
        found = [(path, array.tobytes()) for path, array in weights.items()]
        if data[3] == TURNED_VERSION:
            again = independent_turned.decode(data)
        else:
            again = independent_decoder.decode(data, supplied)
        assert again == found
        independent_decoder.words.cache_clear()


if __name__ == "__main__":
    atheris.Setup(sys.argv, attempt)
    atheris.Fuzz()
