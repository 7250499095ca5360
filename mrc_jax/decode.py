"""An .mrc file to weights, with NumPy alone (docs/FORMAT.md, "Decoding")."""

import hashlib
import importlib.resources

import numpy as np

from mrc_jax.blocks import entry_of_slot
from mrc_jax.container import Container, Header, scales_to_float, unpack
from mrc_jax.errors import FormatError
from mrc_jax.identity import TURNED_VERSION, VALUES_VERSION, Identity, version_of
from mrc_jax.manifest import ITEM_BYTES, UNCODED, Manifest, parse
from mrc_jax.rotation.turned_file import TurnedFile, unpack_turned
from mrc_jax.shared_random import CHUNK, TABLE_UNIT, Stream, quantiles, sign_bits
from mrc_jax.sharing import coded_tensors, expand_group
from mrc_jax.value_file import ValueFile, unpack_values

MAX_PARAMETERS = 1 << 24
File = Container | ValueFile | TurnedFile
_CHUNK = 1 << 19  # slots worked on at a time


def decode(
    data: bytes, manifest: bytes | None = None, max_parameters: int = MAX_PARAMETERS
) -> dict[str, np.ndarray]:
    """The weights in a file.

    Args:
      data: the file.
      manifest: bytes of the manifest, for a file that has none inside and whose network is not
        one of the built-in ones.
      max_parameters: a larger network is refused before anything of its size is allocated.

    Returns:
      Arrays by tensor path, in manifest order: coded tensors as float32, uncoded ones in their own
      dtype (bfloat16 as the float32 of the same value).

    Raises:
      FormatError: the file or manifest is damaged, too large, or the two do not belong together.
    """
    file = parsed(data)
    return expand(file, find_manifest(file.header, manifest), max_parameters)


def parsed(data: bytes) -> File:
    """The parts of a file, checked, whichever its payload; raises FormatError."""
    own = {VALUES_VERSION: unpack_values, TURNED_VERSION: unpack_turned}
    return own.get(version_of(data), unpack)(data)


def find_manifest(header: Identity, supplied: bytes | None = None) -> Manifest:
    """The manifest of a file: embedded, supplied by the user, or built in."""
    if supplied is None and header.manifest is not None:
        return header.manifest
    known = [supplied] if supplied is not None else builtin_manifests()
    for manifest in map(parse, known):
        if manifest.fingerprint == header.fingerprint:
            groups = len(manifest.group_sizes(getattr(header, "ranges", 1)))
            counts = (manifest.entries, groups, manifest.uncoded_bytes)
            if counts != (header.entries, header.groups, header.uncoded_bytes):
                raise FormatError("the file's counts are not those of its manifest")
            return manifest
    wanted = header.fingerprint.hex()
    if supplied is not None:
        raise FormatError(f"the manifest given is not this file's, whose fingerprint is {wanted}")
    raise FormatError(
        f"the file has no manifest inside (fingerprint {wanted}) and none built in fits: "
        "give the network's manifest (--manifest FILE)"
    )


def builtin_manifests() -> list[bytes]:
    """The manifests that travel with the package."""
    folder = importlib.resources.files("mrc_jax").joinpath("data")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".manifest"))
    return [folder.joinpath(name).read_bytes() for name in names]


def expand(
    file: File, manifest: Manifest, max_parameters: int = MAX_PARAMETERS
) -> dict[str, np.ndarray]:
    """The weights of a parsed file, as `decode` returns them."""
    if manifest.parameters > max_parameters:
        raise FormatError(
            f"the network has {manifest.parameters} parameters, more than max_parameters = "
            f"{max_parameters}; raise it (--max_parameters) if you trust the file"
        )
    if isinstance(file, TurnedFile):
        stored = zip(manifest.tensors, file.tensor_bytes(max_parameters), strict=True)
        return {t.path: _uncoded_array(raw, t.dtype).reshape(t.shape) for t, raw in stored}
    if isinstance(file, Container):
        coded, seed = coded_vector(file, manifest), np.uint32(file.header.seed)
    else:
        coded, seed = file.coded_vector(manifest), np.uint32(0)  # nothing is shared
    slices = {index: where for index, _, where in coded_tensors(manifest)}
    weights, position = {}, 0
    for index, tensor in enumerate(manifest.tensors):
        if tensor.factor == UNCODED:
            raw = file.uncoded[position : position + tensor.uncoded_bytes]
            position += tensor.uncoded_bytes
            weights[tensor.path] = _uncoded_array(raw, tensor.dtype).reshape(tensor.shape)
        else:
            weights[tensor.path] = expand_group(coded[slices[index]], tensor, index, seed)
    return weights


def coded_vector(container: Container, manifest: Manifest) -> np.ndarray:
    """float32[entries]: each entry's quantile of its block's chosen candidate times its scale."""
    values = _entries(_lanes(container), container.header)
    coded = np.empty(len(values), np.float32)
    units = scales_to_float(container.scales) / np.float32(TABLE_UNIT)
    start = 0
    for unit, size in zip(units, manifest.group_sizes(container.header.ranges), strict=True):
        where = slice(start, start + size)
        np.multiply(values[where], unit, out=coded[where])
        start += size
    return coded


def _lanes(container: Container) -> np.ndarray:
    """int16[block_size, blocks]: the chosen candidates."""
    header = container.header
    seed, block_size = np.uint32(header.seed), header.partition.block_size
    lanes = np.empty((block_size, header.blocks), np.int16)
    step = max(1, 4 * CHUNK // block_size)  # four lanes take one Threefry call
    for start in range(0, header.blocks, step):
        block = np.arange(start, min(start + step, header.blocks), dtype=np.uint32)
        codebook = block // np.uint32(header.codebook_blocks)
        drawn = quantiles(seed, codebook, container.indices[block], block_size)
        if header.codebook_blocks > 1:
            signs = sign_bits(seed, Stream.CODEBOOK_SIGNS, block, block_size)
            drawn = np.where(signs.T, -drawn, drawn)
        lanes[:, start : start + len(block)] = drawn
    return lanes


def _entries(lanes: np.ndarray, header: Header) -> np.ndarray:
    """int16[entries]: the lanes, int16[block_size, blocks], in the order of the entries."""
    slots, values = lanes.ravel(), np.empty(header.entries, np.int16)
    for start in range(0, header.entries, _CHUNK):
        slot = np.arange(start, min(start + _CHUNK, header.entries), dtype=np.uint32)
        entry = entry_of_slot(header.partition, np.uint32(header.seed), slot)
        # writing out of order waits less for memory than reading; NumPy is quick with intp alone
        values[entry.astype(np.intp)] = slots[start : start + len(slot)]
    return values


def weights_sha256(weights: dict[str, np.ndarray]) -> str:
    """SHA-256 of all arrays' little-endian bytes, in the order of the dictionary."""
    digest = hashlib.sha256()
    for array in weights.values():
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(np.ascontiguousarray(little).tobytes())
    return digest.hexdigest()


def _uncoded_array(raw: bytes | memoryview, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return scales_to_float(np.frombuffer(raw, "<u2"))
    assert dtype in ITEM_BYTES
    if dtype == "bool":
        if any(b > 1 for b in set(raw)):
            raise FormatError("an uncoded bool tensor has bytes other than 0 and 1")
        return np.frombuffer(raw, np.bool_)
    kind = np.dtype(dtype)
    return np.frombuffer(raw, kind.newbyteorder("<")).astype(kind)
