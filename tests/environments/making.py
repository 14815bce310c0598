"""Virtual environments with the oldest or newest releases that setup.py allows.

They are separate from `.venv`, print what they download first, and are recreated if setup.py
changes; that of the newest releases also if there are newer ones.
"""

import hashlib
import platform
import subprocess
import sys
from pathlib import Path

from mmbert.errors import UserError
from mmbert.wheels.collecting import describe_size
from mmbert.wheels.programs import find_uv, run, uv_environment
from mmbert.wheels.required import ROOT, required
from mmbert.wheels.resolution import resolve
from mmbert.wheels.target import parse_target

# uv's resolution by kind. Packages that setup.py does not name are the newest in both.
RESOLUTIONS = {"oldest": "--resolution=lowest-direct", "newest": "--resolution=highest"}
# The oldest releases have no wheels for later Python versions.
NEWEST_PYTHON = {"oldest": (3, 12), "newest": (3, 99)}
SAID_FIRST = ("torch", "triton", "deepspeed", "numpy", "transformers")


def make_environment(kind: str, root: Path = ROOT, extras: tuple[str, ...] = ("dev",)) -> Path:
    """Return the Python of the environment `.venv-KIND` in `root`, creating it if necessary.

    Raises:
        UserError: this Python is too new for the oldest releases, the requirements conflict, or
            the registry is unreachable.
    """
    here = (sys.version_info[0], sys.version_info[1])
    if here > NEWEST_PYTHON[kind]:
        raise UserError(
            f"the {kind} releases have no wheels for Python {here[0]}.{here[1]}",
            remedy="use an older interpreter: PYTHON=python3.11",
        )
    place = root / f".venv-{kind}"
    python, note = place / "bin" / "python", place / "made-from"
    source = f"{kind} {sys.version}\n".encode() + (root / "setup.py").read_bytes()
    made_from = hashlib.sha256(source).hexdigest()
    fits = note.exists() and note.read_text() == made_from
    if fits and kind == "oldest":
        print(f"reusing {place}: it matches setup.py")
        return python
    uv = find_uv()
    target = parse_target(None, f"manylinux_2_28_{platform.machine()}")
    packages = resolve(uv, required(extras, root=root), target, {}, [], RESOLUTIONS[kind])
    chosen = {package.name: package.version for package in packages}
    pins = "".join(f"{name}=={version}\n" for name, version in chosen.items())
    versions = place / "versions.txt"
    if fits and versions.read_text() == pins:
        print(f"reusing {place}: it has the {kind} releases")
        return python
    named = ", ".join(f"{name} {chosen[name]}" for name in SAID_FIRST if name in chosen)
    print(f"{place}: the {kind} releases ({named})")
    print(f"downloading {len(packages)} packages, {describe_size(packages)}, unless cached by uv")
    sys.stdout.flush()
    purpose = f"creating {place}"
    run([sys.executable, "-m", "venv", "--clear", str(place)], purpose)
    versions.write_text(pins)
    install = [uv, "pip", "install", "--quiet", f"--python={python}"]
    run([*install, f"--requirement={versions}"], purpose, {"DS_BUILD_OPS": "0", **uv_environment()})
    run([*install, "--no-deps", f"--editable={root}"], purpose, uv_environment())
    note.write_text(made_from)
    return python


def run_tests(python: Path, arguments: list[str], root: Path = ROOT) -> int:
    """Run pytest with `python` and return its exit status."""
    return subprocess.run(
        [str(python), "-m", "pytest", *arguments], cwd=root, check=False
    ).returncode
