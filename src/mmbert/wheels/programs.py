"""External programs: uv for resolution for another machine, pip for downloads and builds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mmbert.errors import PackageError
from mmbert.wheels.required import ROOT

# First version that writes pylock.toml, which contains the sizes.
_OLDEST_UV = (0, 7)
_NO_NETWORK = re.compile(
    r"error sending request|Request failed after|Failed to fetch|Max retries exceeded"
    r"|connection broken|Could not connect|NewConnectionError|dns error",
    re.IGNORECASE,
)


def find_uv(private: Path = ROOT / ".venv-tools") -> str:
    """Return the path of uv: beside this interpreter, on PATH, or installed into `private`.

    Raises:
        PackageError: uv is missing and cannot be installed.
    """
    beside = shutil.which("uv", path=str(Path(sys.executable).parent))
    for known in (beside, shutil.which("uv"), str(private / "bin" / "uv")):
        if known and _is_new_enough(known):
            return known
    if not os.access(private.parent, os.W_OK):
        private = Path.home() / ".cache" / "mmbert-tools"  # not writable by others
        if _is_new_enough(str(private / "bin" / "uv")):
            return str(private / "bin" / "uv")
    print(f"installing uv (about 25 MiB) into {private} to resolve for other machines")
    run([sys.executable, "-m", "venv", str(private)], "a virtual environment for uv")
    wanted = f"uv>={'.'.join(map(str, _OLDEST_UV))}"
    run([str(private / "bin" / "python"), "-m", "pip", "install", "--quiet", wanted], "uv")
    return str(private / "bin" / "uv")


def _is_new_enough(uv: str) -> bool:
    try:
        output = subprocess.run(
            [uv, "--version"], capture_output=True, encoding="utf-8", errors="replace", check=False
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
    """Run a program to completion and capture its output.

    Args:
        command: the program and its arguments.
        purpose: description for error messages.
        environment: additional environment variables.
        shown: show standard output (pip's progress bars) on a terminal instead of capturing it.

    Raises:
        PackageError: the program failed. Includes its error output, and whether the network failed.
    """
    try:
        variables = {**os.environ, **(environment or {})}
        output = None if shown and sys.stdout.isatty() else subprocess.PIPE
        result = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            check=False,
            env=variables,
        )
    except OSError as error:
        raise PackageError(
            f"{purpose}: cannot run {command[0]}: {error.strerror}",
            remedy="give an existing interpreter",
        ) from None
    if result.returncode:
        raise failure(purpose, result.stderr or result.stdout or "")
    return result


def failure(purpose: str, output: str) -> PackageError:
    """Convert a program's error output to a PackageError."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(error|cause|hint)\b", line, re.IGNORECASE)]
    words = "; ".join((causes or lines)[:3]) or "no error output"
    if _NO_NETWORK.search(output):
        remedy = "the package registry cannot be reached: run this where it can (PIP_INDEX_URL="
        return PackageError(f"{purpose}: {words}", remedy=remedy + "… names a mirror)")
    if "externally-managed-environment" in output:
        return PackageError(
            f"{purpose}: this interpreter's packages are managed by the system",
            remedy="use a virtual environment: python3 -m venv --system-site-packages DIR",
        )
    return PackageError(f"{purpose}: {words}", remedy="fix the problem and repeat the command")


def uv_environment() -> dict[str, str]:
    """Return uv's environment variables for pip's configured index and certificates."""
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
    result = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return "" if result.returncode else result.stdout.strip()
