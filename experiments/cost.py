"""What training, coding and decoding take: bytes and operations as functions of the sizes.

docs/scaling.md has the measurements that the numbers here were fitted to, and how well they fit.
"""

PROCESS = 388 << 20  # of Python with JAX and its compiler at work
DECODER = 192 << 20  # of Python with what the measurement imports; NumPy alone takes less


def coding_bytes(entries: int, block_size: int, bits: int) -> int:
    """Peak memory of a process that codes a vector on one device."""
    return PROCESS + 12 * entries


def decoding_bytes(entries: int) -> int:
    """Peak memory of a process that decodes a file without sharing, by NumPy."""
    return DECODER + 6 * entries
