"""accelerate and datasets, which the trainers of transformers and sentence-transformers need, in a
folder of their own: `make setup` installs neither."""

import functools
import subprocess
import sys
import tempfile
from pathlib import Path

# Unpinned, as are the packages of the environment; the last three are what datasets needs besides.
PACKAGES = ("accelerate", "datasets", "dill", "multiprocess", "pandas")


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix="trainer-packages-")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, folder.name, *PACKAGES], check=True, timeout=300)
    return folder


def trainer_packages() -> Path:
    """Return the folder for PYTHONPATH, installed at the first call and deleted at exit."""
    return Path(_folder().name)
