"""Older releases of transformers and what goes with them, in folders before the other packages.

A set is installed by pip without dependencies, so that torch and the rest are the environment's.
Its folder is `.venv-versions/NAME-DIGEST`, reused until its pins or the Python change.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmbert.wheels.programs import run
from tests.support.environment import ROOT, with_packages

_REQUESTS = (
    "requests==2.34.2", "urllib3==2.8.0", "charset-normalizer==3.5.3", "idna==3.20",
    "certifi==2026.10.19.post1",
)  # fmt: skip
_HTTPX = ("httpx==0.28.1", "httpcore==1.0.9", "h11==0.16.0", "anyio==4.16.0")

PINS: dict[str, tuple[str, ...]] = {
    "4.48": (
        "transformers==4.48.0", "sentence-transformers==3.4.1", "tokenizers==0.21.4",
        "huggingface-hub==0.36.0", *_REQUESTS,
    ),
    "4.57": (
        "transformers==4.57.6", "tokenizers==0.22.2", "huggingface-hub==0.36.0", *_REQUESTS,
    ),
    "5.0": (
        "transformers==5.0.0", "tokenizers==0.22.2", "huggingface-hub==1.3.0", *_HTTPX, *_REQUESTS,
    ),
    # With PyLate's pins; its fast-plaid, for indexes alone, needs torch 2.11 and is left out.
    "5.3": (
        "transformers==5.3.0", "sentence-transformers==5.3.0", "pylate==1.6.0",
        "tokenizers==0.22.2", "huggingface-hub==1.3.0", *_HTTPX, *_REQUESTS,
        "ujson==5.12.0", "ninja==1.11.1.4", "fastkmeans==0.5.0", "accelerate==1.13.0",
        "datasets==4.8.5", "dill==0.4.1", "multiprocess==0.70.19", "pandas==2.3.3",
        "pytz==2025.2", "python-dateutil==2.9.0.post0", "six==1.17.0", "peft==0.18.1",
    ),
}  # fmt: skip
"""Packages by the release of transformers."""

WITH_SENTENCE_TRANSFORMERS = ("4.48", "5.3")
"""Those in which packed live models are tested."""

PLACES = ROOT / ".venv-versions"

EXPECTED = "EXPECTED_PINS"
"""Environment variable with the pins, for the test that they are what is imported."""


def packages_of(name: str) -> Path:
    """Return the folder of the set's packages, installing them if necessary.

    Raises UserError if pip fails.
    """
    pins = PINS[name]
    digest = hashlib.sha256("\n".join([sys.version, *pins]).encode()).hexdigest()[:12]
    place = PLACES / f"{name}-{digest}"
    if place.exists():
        return place
    PLACES.mkdir(exist_ok=True)
    # Not compiled: few of the modules are imported, and Python keeps those itself.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    with tempfile.TemporaryDirectory(dir=PLACES, prefix="partial-") as partial:
        packages = Path(partial) / "packages"
        run([*install, "--target", str(packages), *pins], f"installing transformers {name}")
        for old in PLACES.glob(f"{name}-*"):
            shutil.rmtree(old, ignore_errors=True)
        packages.rename(place)
    return place


def run_with_versions(arguments: list[str]) -> int:
    """Run pytest with the packages of each set in turn; returns the first status that is not 0."""
    statuses = []
    for name in WITH_SENTENCE_TRANSFORMERS:
        print(f"== {', '.join(pin.replace('==', ' ') for pin in PINS[name][:3])}", flush=True)
        begin = time.monotonic()
        packages = packages_of(name)
        installed = time.monotonic()
        environment = with_packages(packages, **{EXPECTED: " ".join(PINS[name])})
        command = [sys.executable, "-m", "pytest", "-m", "not gpu and not slurm", *arguments]
        statuses.append(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)
        print(
            f"== transformers {name}: installed in {installed - begin:.0f} s,"
            f" tested in {time.monotonic() - installed:.0f} s",
            flush=True,
        )
    return next(filter(None, statuses), 0)
