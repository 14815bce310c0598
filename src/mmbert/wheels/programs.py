"""The two programs that do the work: uv resolves for another machine, pip downloads and builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mmbert.errors import UserError
from mmbert.wheels.required import ROOT

# Older ones write no pylock.toml, which has the sizes.
_OLDEST_UV = (0, 7)
_NO_NETWORK = re.compile(
    r"error sending request|Request failed after|Failed to fetch|Max retries exceeded"
    r"|connection broken|Could not connect|NewConnectionError|dns error",
    re.IGNORECASE,
)


def find_uv(private: Path = ROOT / ".venv-tools") -> str:
    """The path of uv: this interpreter's, the shell's, or one put into `private` for the purpose.

    Raises:
        UserError: there is none, and it cannot be installed.
    """
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    for known in (beside, shutil.which("uv"), str(private / "bin" / "uv")):
        if known and _is_new_enough(known):
            return known
    if not os.access(private.parent, os.W_OK):
        private = Path.home() / ".cache" / "mmbert-tools"  # no folder that others can write to
        if _is_new_enough(str(private / "bin" / "uv")):
            return str(private / "bin" / "uv")
    print(f"installing uv (about 25 MiB), which resolves for other machines, into {private}")
    run([sys.executable, "-m", "venv", str(private)], "a virtual environment for uv")
    wanted = f"uv>={'.'.join(map(str, _OLDEST_UV))}"
    run([str(private / "bin" / "python"), "-m", "pip", "install", "--quiet", wanted], "uv")
    return str(private / "bin" / "uv")


def _is_new_enough(uv: str) -> bool:
    try:
        output = subprocess.run(
            [uv, "--version"], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return False
    match = re.match(r"uv (\d+)\.(\d+)", output)
    return match is not None and (int(match[1]), int(match[2])) >= _OLDEST_UV


def run(
    command: list[str],
    purpose: str,
    environment: Mapping[str, str] | None = None,
    *,
    shown: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, quietly.

    Args:
        command: the program and its arguments.
        purpose: what is being made, for the message when it fails.
        environment: variables on top of this process's.
        shown: let its standard output through where a person looks on: pip's bars are there.

    Raises:
        UserError: it failed; with what it said, and whether the network was at fault.
    """
    try:
        variables = {**os.environ, **(environment or {})}
        output = None if shown and sys.stdout.isatty() else subprocess.PIPE
        result = subprocess.run(
            command, stdout=output, stderr=subprocess.PIPE, text=True, check=False, env=variables
        )
    except OSError as error:
        raise UserError(
            f"{purpose}: {command[0]} cannot be run ({error.strerror})",
            remedy="name an interpreter that is there",
        ) from None
    if result.returncode:
        raise failure(purpose, result.stderr or result.stdout or "")
    return result


def failure(purpose: str, output: str) -> UserError:
    """What a program's last words mean to the user."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(error|cause|hint)\b", line, re.IGNORECASE)]
    words = "; ".join((told or lines)[:3]) or "it said nothing"
    if _NO_NETWORK.search(output):
        remedy = "the package registry cannot be reached: run this where it can (PIP_INDEX_URL="
        return UserError(f"{purpose}: {words}", remedy=remedy + "… names a mirror)")
    if "externally-managed-environment" in output:
        return UserError(
            f"{purpose}: the system keeps this interpreter's packages",
            remedy="use one of your own on top of it: python3 -m venv --system-site-packages DIR",
        )
    return UserError(f"{purpose}: {words}", remedy="mend what is said there and start again")


def uv_environment() -> dict[str, str]:
    """The index and the certificates that pip is told to use, in uv's words."""
    words = {}
    index = os.environ.get("PIP_INDEX_URL") or _configured("index-url")
    if index and "UV_DEFAULT_INDEX" not in os.environ:
        words["UV_DEFAULT_INDEX"] = index
    certificate = os.environ.get("PIP_CERT") or _configured("cert")
    if certificate and "SSL_CERT_FILE" not in os.environ:
        words["SSL_CERT_FILE"] = certificate
    return words


def _configured(key: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{key}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if result.returncode else result.stdout.strip()
