"""Runs a snippet in a Python of its own, for settings that JAX reads only when it starts."""

import os
import subprocess
import sys

# programs are slower, and compiled in a third of the time
QUICK = " ".join(
    (
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
    )
)
SETTINGS = {
    "as users have it": {"XLA_FLAGS": ""},
    "x64": {"JAX_ENABLE_X64": "1"},
    "rbg": {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    "eight_devices": {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
    "eight_devices_quick": {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=8"},
    "fast_math": {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true"},
    "everything": {
        "JAX_ENABLE_X64": "1",
        "JAX_DEFAULT_PRNG_IMPL": "rbg",
        "JAX_THREEFRY_PARTITIONABLE": "0",
        "XLA_FLAGS": "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=8",
    },
}


def output_of(code: str, setting: str) -> str:
    """What the snippet prints under a setting; fails with its errors if it fails."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **SETTINGS[setting]}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
