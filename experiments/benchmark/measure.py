"""Times and peak memory of a call, each in a process of its own."""

import concurrent.futures
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

REPETITIONS = 5


def in_fresh_process(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a module's function in a new process, so that no memory is warm."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *args).result()


def seconds(call: Callable[[], Any], repetitions: int = REPETITIONS) -> float:
    """The median time of a call that returns arrays, in seconds, after one that compiles."""
    import jax

    jax.block_until_ready(call())
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def seconds_and_peak(call: Callable[[], Any]) -> tuple[float, int]:
    """`seconds`, and the bytes by which memory in use rose above what it was before.

    On a CPU: the peak resident set less that before, so compilation counts; elsewhere the device's
    own account.
    """
    import jax

    device = jax.devices()[0]
    before = _resident_bytes() if device.platform == "cpu" else _of_device(device, "bytes_in_use")
    median = seconds(call)
    if device.platform == "cpu":
        return median, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return median, _of_device(device, "peak_bytes_in_use") - before


def _of_device(device: Any, name: str) -> int:
    return (device.memory_stats() or {}).get(name, 0)


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def origin() -> dict[str, Any]:
    """Commit, versions and device, for `in_fresh_process`: the caller leaves the device alone."""
    from experiments import record

    return record.origin()
