"""The wheel, built without a network and installed into an environment of its own.

The environment sees the packages that the tests run with, through a .pth file, but not the clone:
a file that the wheel lacks is missing there. Everything runs from a folder outside the clone.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.environment import FOLDERS, ON_A_CPU, ROOT
from tests.support.ranks import free_port
from tests.support.tiny_run import RECIPE, losses_and_norms, write_text

CACHES = shutil.ignore_patterns("__pycache__", "*.egg-info")


@dataclass(frozen=True)
class Installation:
    """An environment with the wheel, and the folder in which its commands run."""

    wheel: Path
    environment: Path
    folder: Path

    @property
    def packages(self) -> Path:
        """The environment's site-packages."""
        (found,) = self.environment.glob("lib/python*/site-packages")
        return found

    def run(self, *command: str | Path, timeout: float = 120) -> str:
        """Run a command of the environment and return what it printed, standard error included."""
        program = self.environment / "bin" / command[0]
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        result = subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env={**kept, **ON_A_CPU, "PATH": f"{program.parent}:/usr/bin:/bin", "COLUMNS": "200"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert result.returncode == 0, result.stdout
        return result.stdout


def _pip(*arguments: str | Path) -> None:
    command = (sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The wheel of a copy of the sources (building leaves files beside them), installed."""
    base = tmp_path_factory.mktemp("installed")
    sources, environment = base / "sources", base / "environment"
    for name in (*FOLDERS, "slurm"):
        shutil.copytree(ROOT / name, sources / name, ignore=CACHES)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    offline = ("--no-index", "--no-deps")
    _pip("wheel", *offline, "--no-build-isolation", "--wheel-dir", base, sources)
    (wheel,) = base.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    _pip("--python", environment / "bin" / "python", "install", *offline, wheel)
    installation = Installation(wheel, environment, base / "elsewhere")
    beneath = [path for path in sys.path if path.endswith("-packages")]
    (installation.packages / "beneath.pth").write_text("\n".join(beneath))
    installation.folder.mkdir()
    return installation


def test_the_wheel_holds_every_file(installed: Installation) -> None:
    places = {"src": "", "kernels": "", "data_prep": "", "slurm": "mmbert/slurm/"}
    sources = {
        f"{target}{path.relative_to(ROOT / folder)}"
        for folder, target in places.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "mmbert_train.egg-info"} & {*path.parts}
    }
    with zipfile.ZipFile(installed.wheel) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == sources
    assert {"mmbert/py.typed", "mmbert/recipes/languages/mmbert-60.txt"} <= packed


def test_a_recipe_goes_by_name(installed: Installation) -> None:
    printed = installed.run("mmbert", "plan", "mmbert-base", "--gpus", "8", "--gpu", "h100")
    assert f"recipe: mmbert-base ({installed.packages}/mmbert/recipes/mmbert-base.yaml)" in printed
    assert "Languages: 1,834" in printed  # a table of the package


def test_the_slurm_scripts_are_copied(installed: Installation) -> None:
    installed.run("mmbert", "slurm-scripts")
    for path in (ROOT / "slurm").rglob("*.*"):
        copied = installed.folder / "slurm" / path.relative_to(ROOT / "slurm")
        assert copied.read_bytes() == path.read_bytes()


@pytest.mark.long
def test_preprocessing_and_training_start_as_modules(installed: Installation) -> None:
    folder = installed.folder
    write_text(folder / "text")
    (folder / "recipe.yaml").write_text(RECIPE)
    installed.run(
        *("python", "-m", "mmbert_prep", "--input", "text", "--output", "shards"),
        *("--recipe", "recipe.yaml", "--workers", "2"),
    )
    deepspeed = Path(sys.executable).with_name("deepspeed")  # under the environment's interpreter
    printed = installed.run(
        *("python", deepspeed, "--num_gpus", "2", "--master_port", str(free_port())),
        *("--module", "mmbert.pretrain", "--recipe", "recipe.yaml"),
        *("--data", "shards", "--output", "run"),
        timeout=240,
    )
    assert "recipe: recipe.yaml" in printed
    assert len(losses_and_norms(folder / "run")) == 40
    installed.run("mmbert", "export", "run", "model")
    assert "report.html: " in installed.run("mmbert", "report", "run")
    module = "import mmbert, mmbert_prep, mmbert_kernels as k; print(mmbert, mmbert_prep, k)"
    assert installed.run("python", "-c", module).count(str(installed.packages)) == 3
