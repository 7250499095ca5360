"""What every test runs under: the CPU, repeatable examples, no network, one compilation cache."""

import os
import pathlib
import runpy
import tempfile

import pytest
from fresh_process import QUICK
from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", QUICK)  # what users have is tested in processes of their own

OFFLINE = pathlib.Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # for this process, and for those it starts:
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    """Compiles a program once for all processes of a session; the folder is gone after it."""
    if hasattr(config, "workerinput"):
        return  # a worker of pytest-xdist, which has its session's folder
    folder = tempfile.TemporaryDirectory(prefix="mrc_jax_compiled_")
    config.add_cleanup(folder.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)  # with a bound JAX locks the folder
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
