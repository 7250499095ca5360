"""What every test runs under: the CPU, repeatable examples, and no network."""

import os
import pathlib
import runpy

from hypothesis import settings

os.environ.setdefault("JAX_PLATFORMS", "cpu")

OFFLINE = pathlib.Path(__file__).parent / "offline"
runpy.run_path(str(OFFLINE / "sitecustomize.py"))  # for this process, and for those it starts:
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(OFFLINE), os.environ.get("PYTHONPATH")])
)

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
