"""All commands and options of the programs, with a call of each that works, run in this process."""

import contextlib
import functools
import importlib
import io
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args
from unittest import mock

from typer.models import ArgumentInfo, OptionInfo
from typer.utils import get_params_from_function

from tests.support.environment import ROOT

KEPT = ROOT / "tests" / "fixtures" / "kept"
INPUTS = {"recipe.yaml": "recipe.yaml", "text": "corpus", "shards": "shards", "run": "run",
          "export": "model"}  # fmt: skip
"""File in tests/fixtures/kept -> its name in the calls."""
PROGRAMS = {"mmbert": "mmbert.cli", "pretrain": "mmbert.pretrain", "prep": "mmbert_prep.cli"}
"""Program -> module with `app` and `main`."""
_LAUNCHERS = ("SLURM_", "OMPI_", "PMI_", "PMIX_", "MPI_")
_OF_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "CROSS_RANK")

# Arguments by parameter name; every one that a command needs, for a call that takes little time.
CALLS: dict[str, dict[str, list[str]]] = {
    "mmbert ablate": {"recipe": ["recipe.yaml"], "data": ["shards"], "output": ["out"],
                      "dry_run": [""], "launch": ["true"]},
    "mmbert decay": {"model": ["model"], "input": ["corpus"], "output": ["out"],
                     "without_old": [""], "dry_run": [""], "launch": ["true"]},
    "mmbert doctor": {},
    "mmbert evaluate": {"model": ["model"], "data": ["shards"], "documents": ["1"]},
    "mmbert export": {"checkpoint": ["run"], "out": ["out"]},
    "mmbert fault-drill": {"output": ["out"]},
    "mmbert fill-mask": {"model": ["model"], "sentences": ["a [MASK]"]},
    "mmbert import": {"model": ["model"], "out": ["out"]},
    "mmbert inspect": {"path": ["shards"]},
    "mmbert merge": {"models": ["model", "run"], "output": ["out"], "method": ["linear"]},
    "mmbert plan": {"recipe": ["recipe.yaml"], "gpus": ["1"]},
    "mmbert publish": {"run": ["run"], "out": ["out"], "data": ["shards"], "dry_run": [""]},
    "mmbert recipes": {},
    "mmbert report": {"folders": ["run"], "output": ["out.html"]},
    "mmbert results": {"run": ["run"]},
    "mmbert slurm-scripts": {"folder": ["out"]},
    "mmbert status": {"path": ["run"]},
    "mmbert submit": {"recipe": ["recipe.yaml"], "input": ["corpus"], "output": ["out"],
                      "dry_run": [""]},
    "mmbert tune": {"recipe": ["recipe.yaml"], "data": ["shards"], "output": ["out"],
                    "search": ["optimizer.learning_rate=1e-3,2e-3"], "dry_run": [""],
                    "launch": ["true"]},
    "pretrain": {"recipe": ["recipe.yaml"], "data": ["shards"], "output": ["out"],
                 "dry_run": [""]},
    "prep": {"input": ["corpus"], "output": ["out"], "workers": ["1"], "vocabulary_size": ["384"],
             "dry_run": [""]},
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Exit status of a call, what it wrote, and the traceback of an error that it let through."""

    status: int | None
    stdout: str
    stderr: str
    traceback: str = ""

    @property
    def refused(self) -> bool:
        """Whether it ended with status 2 and a message with a remedy."""
        found = self.stderr.find("error: ")
        return self.status == 2 and found >= 0 and "\n  → " in self.stderr[found:]


@dataclass(frozen=True)
class Parameter:
    """An option or argument of a command."""

    name: str
    option: str | None
    """Its first long name; None for an argument."""
    kind: type
    """Type of one value: int, float, str, Path, bool, an Enum, or object for a quantity."""

    def words(self, value: str) -> list[str]:
        """Return the words of an option with `value`; a flag's value is not written."""
        if self.kind is bool:
            return [str(self.option)]
        return [f"{self.option}={value}"]


@functools.cache
def registered() -> dict[str, Callable[..., Any]]:
    """Return the function of every command of the Typer programs, by its name in CALLS."""
    found = {}
    for program, module in PROGRAMS.items():
        infos = importlib.import_module(module).app.registered_commands
        for command in infos:
            name = command.name or command.callback.__name__.rstrip("_").replace("_", "-")
            found[program if len(infos) == 1 else f"{program} {name}"] = command.callback
    return found


@functools.cache
def commands() -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of every command, by its name in CALLS."""
    return {name: tuple(_parameters(callback)) for name, callback in registered().items()}


def _parameters(callback: Callable[..., Any]) -> Iterator[Parameter]:
    for name, meta in get_params_from_function(callback).items():
        info = meta.default
        if not isinstance(info, ArgumentInfo | OptionInfo):
            continue  # the context
        option = None
        if isinstance(info, OptionInfo):
            names = [one for one in info.param_decls or () if one.startswith("--")]
            option = names[0].partition("/")[0] if names else f"--{name.replace('_', '-')}"
        yield Parameter(name, option, _kind(meta.annotation, info))


def _kind(annotation: Any, info: ArgumentInfo | OptionInfo) -> type:
    while get_args(annotation):
        annotation = next(one for one in get_args(annotation) if one is not type(None))
    return object if annotation is Any else annotation


def words_of(name: str, values: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the words of command `name` with `values` by parameter name."""
    options, arguments = [], []
    for parameter in commands()[name]:
        for value in values.get(parameter.name, ()):
            if parameter.option is None:
                arguments.append(value)
            else:
                options += parameter.words(value)
    return [*options, "--", *arguments] if arguments else options


def write_inputs(folder: Path) -> None:
    """Copy the inputs of the calls into `folder`."""
    for name, new in INPUTS.items():
        source = KEPT / name
        if source.is_dir():
            shutil.copytree(source, folder / new)
        else:
            shutil.copy(source, folder / new)


@contextlib.contextmanager
def no_launcher(**variables: str) -> Iterator[None]:
    """Remove the variables of launchers from the environment, and set others."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_LAUNCHERS and not name.startswith(_LAUNCHERS)
    }
    with mock.patch.dict(os.environ, kept | {"COLUMNS": "200"} | variables, clear=True):
        yield


def call(name: str, words: Sequence[str], encoding: str = "utf-8", **variables: str) -> Outcome:
    """Run command `name` with `words` in this process and the working directory.

    `encoding`: that of its output.
    """
    program, _, command = name.partition(" ")
    module = importlib.import_module(PROGRAMS[program])
    handler = signal.getsignal(signal.SIGTERM)
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2))
    status: int | None = None
    trace = ""
    with (
        no_launcher(**variables),
        mock.patch.object(sys, "argv", [program, *([command] if command else []), *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            module.main()
        except SystemExit as leaving:
            status = leaving.code if isinstance(leaving.code, int) else 0
        except BaseException:
            trace = traceback.format_exc()
        finally:
            signal.signal(signal.SIGTERM, handler)
    for stream in (out, err):
        stream.flush()
    # Click writes UTF-8 where the locale is ASCII, which it takes for a mistake.
    texts = [stream.buffer.getvalue().decode(encoding, "backslashreplace") for stream in (out, err)]
    return Outcome(status, texts[0], texts[1], trace)
