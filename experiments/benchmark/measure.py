"""Times and peak memory of a call, each in a process of its own."""

import concurrent.futures
import contextlib
import ctypes
import functools
import multiprocessing
import pathlib
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

REPETITIONS = 5
Name = TypeVar("Name")


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


def in_turns(calls: Mapping[Name, Callable[[], Any]], repetitions: int) -> dict[Name, float]:
    """The median time of each of some calls that wait for what they run, in seconds: one of each
    after another, again and again, after a first that compiles.
    """
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def seconds_and_peak(call: Callable[[], Any]) -> tuple[float, int]:
    """`seconds`, and the bytes by which memory in use rose above what it was before.

    On a CPU: the peak resident set less that before, so compilation counts. Elsewhere the call must
    be functools.partial of a jitted function and arrays, and its peak is the compiler's account:
    arguments, results and what lies between.
    """
    import jax

    if jax.default_backend() != "cpu":
        assert isinstance(call, functools.partial)
        program: Any = call.func
        compiled = program.lower(*call.args).compile()
        sizes = compiled.memory_analysis()
        names = ("argument", "output", "temp")
        peak = sum(getattr(sizes, f"{name}_size_in_bytes") for name in names)
        return seconds(functools.partial(compiled, *call.args)), peak
    _forget_peak()
    before = resident("VmRSS")
    return seconds(call), max(0, resident("VmHWM") - before)


def _forget_peak() -> None:
    """Starts a new peak, and gives back freed memory, which a call could else use unseen."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU C library's
    if trim is not None:
        trim(0)
    with contextlib.suppress(OSError):  # where it is not allowed earlier peaks count too
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> int:
    """A size of this process: VmRSS now, VmHWM at most; getrusage's may be its parent's."""
    found = re.search(rf"{name}:\s*(\d+) kB", pathlib.Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) << 10


def origin() -> dict[str, Any]:
    """Commit, versions and device, for `in_fresh_process`: the caller leaves the device alone."""
    from experiments import record

    return {**record.origin(), "processor": _processor()}


def _processor() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return found[1] if found else platform.processor()
