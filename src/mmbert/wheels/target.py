"""Target machine of the collected wheels: Python version, platform and accepted tags."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from mmbert.errors import ArgumentError
from mmbert.wheels.pep import tags

OLDEST_PYTHON = (3, 11)
# glibc minor versions known to uv, newest first; 2.17 is the oldest.
_GLIBC_OF_UV = (40, 39, 38, 37, 36, 35, 34, 33, 32, 31, 28, 17)
_ARCHITECTURES = ("x86_64", "aarch64")
_OLD_NAMES = {"manylinux2014": 17}


@dataclass(frozen=True)
class Target:
    """Linux machine: Python version, glibc 2.`glibc` or newer, and architecture."""

    python: tuple[int, int]
    glibc: int
    architecture: str

    def __str__(self) -> str:
        python = ".".join(map(str, self.python))
        return f"Python {python} on manylinux_2_{self.glibc}_{self.architecture}"

    @property
    def platforms(self) -> list[str]:
        """All accepted platform tags, best first; pip compares them literally."""
        names = []
        for minor in range(self.glibc, 16, -1):
            names.append(f"manylinux_2_{minor}_{self.architecture}")
            if minor == 17:
                names.append(f"manylinux2014_{self.architecture}")
        if self.architecture == "x86_64":
            names += [f"manylinux_2_{minor}_x86_64" for minor in range(16, 4, -1)]
            names += ["manylinux2010_x86_64", "manylinux1_x86_64"]
        return [*names, f"linux_{self.architecture}"]

    @property
    def tags(self) -> list[tags.Tag]:
        """All accepted wheel tags, best first."""
        found = list(tags.cpython_tags(self.python, platforms=self.platforms))
        interpreter = f"cp{self.python[0]}{self.python[1]}"
        found += tags.compatible_tags(self.python, interpreter, self.platforms)
        return found

    @property
    def uv_platform(self) -> str:
        """uv's name of the newest platform compatible with this machine."""
        known = next(minor for minor in _GLIBC_OF_UV if minor <= self.glibc)
        return f"{self.architecture}-manylinux_2_{known}"

    @property
    def pip_options(self) -> list[str]:
        """pip options that select wheels for this machine."""
        options = ["--only-binary=:all:", "--implementation=cp"]
        options += [f"--python-version={self.python[0]}.{self.python[1]}"]
        return options + [f"--platform={name}" for name in self.platforms]


def parse_target(python: str | None, platform: str) -> Target:
    """Parse PYTHON_VERSION (default: this interpreter's) and PLATFORM.

    Raises:
        ArgumentError: malformed, or an unsupported older version.
    """
    if python is None:
        number = (sys.version_info[0], sys.version_info[1])
    else:
        match = re.fullmatch(r"(3)\.(\d{1,2})(\.\d+)?", python.strip())
        number = (int(match[1]), int(match[2])) if match else (0, 0)
    if number < OLDEST_PYTHON:
        raise ArgumentError(
            f"PYTHON_VERSION {python!r} is not Python 3.11 or newer",
            remedy="give the output of `python3 --version` on the target, as PYTHON_VERSION=3.12",
        )
    architecture = "|".join(_ARCHITECTURES)
    named = re.fullmatch(rf"(manylinux2014)_({architecture})", platform.strip())
    numbered = re.fullmatch(rf"manylinux_2_(\d+)_({architecture})", platform.strip())
    if named:
        return Target(number, _OLD_NAMES[named[1]], named[2])
    if numbered and int(numbered[1]) >= _GLIBC_OF_UV[-1]:
        return Target(number, int(numbered[1]), numbered[2])
    raise ArgumentError(
        f"PLATFORM {platform!r} is not manylinux_2_N_ARCHITECTURE",
        remedy="take N from `ldd --version` on the target (glibc 2.N, 17 or more), ARCHITECTURE "
        f"from {', '.join(_ARCHITECTURES)}, as PLATFORM=manylinux_2_28_x86_64",
    )
