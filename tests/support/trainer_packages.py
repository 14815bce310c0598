"""accelerate and datasets, which the trainers of transformers and sentence-transformers need, in a
folder of their own: `make setup` installs neither."""

import functools
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

import transformers
from packaging.version import Version

# What datasets needs besides goes with it. Unpinned, as are the packages of the environment …
NEWEST = ("accelerate", "datasets", "dill", "multiprocess", "pandas")
# … and the last ones that work with the first release of huggingface_hub.
OLDER = (
    "accelerate==1.13.0", "datasets==4.8.5", "dill==0.4.1", "multiprocess==0.70.19",
    "pandas==2.3.3", "pytz==2025.2", "python-dateutil==2.9.0.post0", "six==1.17.0",
    "httpx==0.28.1", "httpcore==1.0.9", "h11==0.16.0", "anyio==4.16.0",
)  # fmt: skip


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="trainer-packages-")
    packages = NEWEST if Version(transformers.__version__) >= Version("5.4") else OLDER
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, folder.name, *packages], check=True, timeout=300)
    return folder


def trainer_packages() -> list[Path]:
    """Return folders for PYTHONPATH: none, or one, made at the first call and deleted at exit."""
    if all(importlib.util.find_spec(name) for name in ("accelerate", "datasets")):
        return []
    return [Path(_folder().name)]
