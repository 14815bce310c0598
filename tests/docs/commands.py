"""Check of documented command lines by the parsers of the programs they call; nothing is executed.

An unknown command raises `UnknownCommandError`: its block is to be marked `shown`.
"""

import importlib.util
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence

import click
import typer
from deepspeed.launcher.runner import parse_args as parse_launcher_arguments
from torch.distributed.run import get_args_parser as torchrun_parser

from mmbert import pretrain
from mmbert.cli.app import app
from mmbert.recipe import load_recipe
from mmbert.schedule import training_plan
from mmbert_prep import cli as prep_cli
from tests.support.environment import ROOT


class UnknownCommandError(Exception):
    """A command that no parser here knows."""


def check(text: str) -> int:
    """Check every command of a block; return their number."""
    commands = split_commands(text)
    for words in commands:
        check_command(words)
    return len(commands)


def split_commands(text: str) -> list[list[str]]:
    """Split shell text into commands, without comments, redirections and variable settings."""
    commands: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set("|&;"):
                commands.append(words)
                words = []
            else:
                words.append(word)
    return [found for words in commands if (found := _without_shell_parts(words))]


def check_command(words: Sequence[str]) -> None:
    """Parse one command with the parser of its program."""
    program, arguments = words[0].removeprefix(".venv/bin/"), list(words[1:])
    if program not in _CHECKS:
        raise UnknownCommandError(f"no parser for {program!r} in {shlex.join(words)}")
    _CHECKS[program](arguments)


def _without_shell_parts(words: list[str]) -> list[str]:
    while words and re.match(r"[A-Za-z_]\w*=", words[0]):
        words = words[1:]
    for place, word in enumerate(words):
        if word[0] in "<>":
            return _without_shell_parts(words[:place] + words[place + 2 :])
    return words


def _check_mmbert(arguments: list[str]) -> None:
    group = typer.main.get_command(app)
    if not arguments or arguments == ["--help"]:
        return
    command = group.commands.get(arguments[0])  # type: ignore[attr-defined]
    if command is None:
        raise UnknownCommandError(f"mmbert has no command {arguments[0]!r}")
    values = _parse(command, arguments[1:])
    if arguments[0] in ("plan", "ablate", "decay", "submit"):
        _check_recipe(values["recipe"], values["overrides"])
    elif arguments[0] == "recipes" and values.get("name"):
        _check_recipe(values["name"], ())


def _check_pretrain(arguments: list[str]) -> None:
    values = _parse(typer.main.get_command(pretrain.app), arguments)
    _check_recipe(values["recipe"], values["overrides"], values["variant"])


def _check_preprocess(arguments: list[str]) -> None:
    values = _parse(typer.main.get_command(prep_cli.app), arguments)
    if values["recipe"] is not None:
        _check_recipe(values["recipe"], ())


def _parse(command: click.Command, arguments: list[str]) -> dict[str, object]:
    """Return the values of a command's parameters; click raises UsageError for wrong ones."""
    if "--help" in arguments:
        return dict.fromkeys(parameter.name or "" for parameter in command.params)
    with command.make_context(command.name or "", list(arguments)) as context:
        return dict(context.params)


def _check_recipe(name: object, overrides: object, variant: object = None) -> None:
    """Resolve a packaged recipe with its overrides, and its steps; a user's file is not there."""
    if name is None or str(name).endswith(".yaml"):
        return
    recipe = load_recipe(str(name), list(overrides or ()))  # type: ignore[call-overload]
    assert training_plan(recipe).steps > 0
    if variant is not None:
        assert variant in {known.name for known in recipe.variants}, f"no variant {variant}"


def _check_deepspeed(arguments: list[str]) -> None:
    launcher = parse_launcher_arguments(arguments)
    script = [launcher.user_script, *launcher.user_args]
    if launcher.module:
        script = ["-m", *script]
    _check_python(script)


def _check_torchrun(arguments: list[str]) -> None:
    launcher = torchrun_parser().parse_args(arguments)
    script = [launcher.training_script, *launcher.training_script_args]
    _check_python(["-m", *script] if launcher.module else script)


def _check_python(arguments: list[str]) -> None:
    while arguments[:2] == ["-m", "mpi4py"]:
        arguments = arguments[2:]
    if arguments[0] == "-m":
        name, rest = arguments[1], arguments[2:]
        assert importlib.util.find_spec(name) is not None, f"no module {name}"
        path = name.replace(".", "/")
    else:
        path, rest = arguments[0], arguments[1:]
        assert (ROOT / path).is_file(), f"no file {path}"
        path = path.removesuffix(".py")
    if path in ("launch/pretrain", "mmbert/pretrain"):
        _check_pretrain(rest)
    elif path in ("launch/preprocess", "mmbert_prep"):
        _check_preprocess(rest)
    elif path.startswith("tests/"):
        _check_options_in_source(path, rest)
    elif path not in ("pip", "mmbert_prep/demo/corpus"):
        raise UnknownCommandError(f"no parser for python {path}")


def _check_options_in_source(path: str, arguments: list[str]) -> None:
    """Check that the options of a script of the tests stand in its source."""
    file, folder = ROOT / f"{path}.py", ROOT / path
    sources = [file] if file.is_file() else sorted(folder.glob("*.py"))
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    for word in arguments:
        if word.startswith("--"):
            assert f'"{word.split("=")[0]}"' in text, f"{path} has no option {word}"


def _check_make(arguments: list[str]) -> None:
    """Check the target and the names of variables, and the programs that `make -n` would call."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in arguments:
        if "=" in word:
            name = word.split("=")[0]
            known = re.search(
                rf"\$[({{]{name}(:-.*?)?[)}}]|^{name} \?=|\$\(or \$\({name}\)", makefile, re.M
            )
            # launch/install.sh reads those of `make setup` from its environment.
            installs = (ROOT / "launch/install.sh").read_text(encoding="utf-8")
            assert known or f"${{{name}" in installs, f"the Makefile reads no {name}"
    printed = subprocess.run(
        ["make", "-n", "--no-print-directory", "-o", "setup", "-o", ".venv/.installed", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "MAKEFLAGS": ""},
    )
    assert printed.returncode == 0, printed.stderr
    if arguments[0] in ("preprocess", "ablations", "decay", "fault-drill"):
        given = dict(word.split("=", 1) for word in arguments[1:])
        for words in split_commands(_expand(printed.stdout, {"DEMO": "demo", **given})):
            if words[0].removeprefix(".venv/bin/") in ("python", "mmbert"):
                check_command(words)


def _expand(text: str, values: Mapping[str, str]) -> str:
    """Expand the variables of the shell in what `make -n` prints, with their defaults."""
    text = re.sub(r"\$(\w+)", lambda found: values.get(found[1], ""), text)
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: values.get(found[1], found[2]), text)


def _check_sbatch(arguments: list[str]) -> None:
    script = next((word for word in arguments if word.endswith(".sbatch")), "")
    assert (ROOT / script).is_file(), f"no batch script {script or 'is named'}"
    rest = arguments[arguments.index(script) + 1 :]
    if script == "slurm/pretrain.sbatch":
        recipe, shards, run, *overrides = rest
        _check_pretrain(["--recipe", recipe, "--data", shards, "--output", run, *overrides])
    elif script == "slurm/decay.sbatch":
        recipe, shards, run, *rest = rest
        place = rest.index("--") if "--" in rest else len(rest)
        for variant in rest[:place]:
            words = ["--recipe", recipe, "--data", shards, "--output", run, "--variant", variant]
            _check_pretrain([*words, *rest[place + 1 :]])
    elif script == "slurm/merge.sbatch":
        assert len(rest) in (2, 3), rest
    elif script == "slurm/evaluate.sbatch":
        assert len(rest) >= 3, rest
    else:
        if not rest[0].startswith("--"):
            rest = ["--input", rest[0], "--output", rest[1], *rest[2:]]
        _check_preprocess(rest)


def _check_after_options(arguments: list[str]) -> None:
    """Check the program that mpirun or srun starts."""
    for place, word in enumerate(arguments):
        if word in _CHECKS:
            check_command(arguments[place:])
            return
    raise UnknownCommandError(f"no known program in {arguments}")


def _check_pip(arguments: list[str]) -> None:
    """Check the extras that are installed of this package."""
    extras = {extra for word in arguments for extra in re.findall(r"^\.\[(.+)\]$", word)}
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in {name for group in extras for name in group.split(",")}:
        assert f'"{extra}": [' in setup, f"setup.py has no extra {extra}"


def _accept(arguments: list[str]) -> None:
    """Accept a program of the system."""


_CHECKS: dict[str, Callable[[list[str]], None]] = {
    "mmbert": _check_mmbert,
    "deepspeed": _check_deepspeed,
    "python": _check_python,
    "python3": _check_python,
    "make": _check_make,
    "sbatch": _check_sbatch,
    "slurm/submit.sh": lambda arguments: _check_mmbert(["submit", *arguments]),
    "mpirun": _check_after_options,
    "srun": _check_after_options,
    "torchrun": _check_torchrun,
    "pip": _check_pip,
    **dict.fromkeys(
        ("export", "touch", "cd", "mkdir", "git", "tensorboard", "ls", "cp", "source"), _accept
    ),
}
