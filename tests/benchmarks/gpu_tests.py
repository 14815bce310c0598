"""Runs the GPU tests and notes that they passed, so that benchmarks report only what is right.

The note holds a digest of the sources, the device and the versions: after any change the tests must
pass again before a benchmark on a GPU reports anything.

    make test-gpu
"""

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
NOTE = ROOT / "build" / "gpu-tests-passed.json"
SOURCES = ("kernels", "src", "tests/kernels", "tests/training", "tests/model")


@dataclass(frozen=True)
class Refusal:
    """Why nothing is reported, and the exit status that says so."""

    text: str
    status: int


def fingerprint() -> dict[str, str]:
    """What the tests' success depends on."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return {
        "sources": digest.hexdigest(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
    }


def refusal() -> Refusal | None:
    """Why a benchmark on this machine's GPU must not report; None if it may."""
    if not torch.cuda.is_available():
        return Refusal("There is no GPU here: nothing has been measured on one.", 2)
    if not NOTE.exists() or json.loads(NOTE.read_text()) != fingerprint():
        return Refusal(
            "The GPU tests have not passed with these sources on this device: nothing is "
            "reported. Run `make test-gpu` first.",
            1,
        )
    return None


def main() -> int:
    """Run them; 2 without a GPU, pytest's status otherwise."""
    NOTE.unlink(missing_ok=True)
    if not torch.cuda.is_available():
        print("There is no GPU here: the GPU tests cannot run.")
        return 2
    before = fingerprint()
    command = [sys.executable, "-m", "pytest", "-m", "gpu"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0:  # pytest gives 5 if nothing was selected
        NOTE.parent.mkdir(exist_ok=True)
        NOTE.write_text(json.dumps(before))
    return status


if __name__ == "__main__":
    sys.exit(main())
