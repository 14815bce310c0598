"""Reference of all commands (docs/commands.md), from the Typer applications."""

import inspect
import itertools
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import typer
from typer.models import ArgumentInfo, CommandInfo, OptionInfo
from typer.utils import get_params_from_function

import mmbert.pretrain
import mmbert_prep.cli
from docs.scripts.markdown import GENERATED, code, table
from mmbert import cli, errors
from mmbert.recipe import format_quantity

_TYPES = {str: "TEXT", int: "INTEGER", float: "NUMBER", Path: "PATH", Any: "VALUE"}

_INTRODUCTION = """
# Commands

Every command with its arguments, options, defaults and examples: what `--help` prints.

| Program | Purpose |
| --- | --- |
| `mmbert COMMAND` | all else: recipes and plans, comparisons, models, reports, jobs on a cluster |
| `python -m mmbert_prep`, `launch/preprocess.py` | text to tokenizer and token shards |
| `--module mmbert.pretrain` under a launcher, `launch/pretrain.py` | training |

Arguments `KEY=VALUE` override keys of the recipe: see [Recipe reference](recipe-reference.md).
"""


@dataclass(frozen=True)
class _Program:
    """Title of a section and how its commands are called; `{}` stands for the command's name."""

    title: str
    call: str
    application: typer.Typer


_PROGRAMS = (
    _Program("Commands of `mmbert`", "mmbert {}", cli.app),
    _Program("Preprocessing", "python -m mmbert_prep", mmbert_prep.cli.app),
    _Program("Training", "python -m mmbert.pretrain", mmbert.pretrain.app),
)


def render() -> str:
    """Return the page."""
    parts = [GENERATED, _INTRODUCTION.lstrip("\n"), "## Exit statuses\n", _exit_statuses()]
    for program in _PROGRAMS:
        parts.append(f"## {program.title}\n")
        for command in sorted(program.application.registered_commands, key=_name):
            if not command.hidden:
                parts += _command(program, command)
    return "\n".join(parts)


def _exit_statuses() -> str:
    rows = [("0", "Done.")]
    source = Path(errors.__file__).read_text(encoding="utf-8").splitlines()
    for line, meaning in itertools.pairwise(source):
        if line.startswith("EXIT_"):
            rows.append((line.partition(" = ")[2], meaning.strip('"')))
    return table(("Status", "Meaning"), rows)


def _name(command: CommandInfo) -> str:
    return command.name or _callback(command).__name__.rstrip("_")


def _callback(command: CommandInfo) -> Callable[..., Any]:
    assert command.callback is not None
    return command.callback


def _command(program: _Program, command: CommandInfo) -> Iterator[str]:
    arguments: list[tuple[str, Any, ArgumentInfo]] = []
    options: list[tuple[str, Any, OptionInfo]] = []
    for name, meta in get_params_from_function(_callback(command)).items():
        info = meta.default
        if isinstance(info, ArgumentInfo) and not info.hidden:
            arguments.append((name, meta.annotation, info))
        elif isinstance(info, OptionInfo) and not info.hidden:
            options.append((name, meta.annotation, info))
    called = program.call.format(_name(command))
    if "{}" in program.call:
        yield f"### {code(called)}\n"
    help_text = inspect.cleandoc(command.help or _callback(command).__doc__ or "")
    texts, examples = _texts_and_examples(help_text, command.epilog or "")
    yield from (f"{text}\n" for text in texts)
    yield f"Usage: {code(_usage(called, arguments, options))}\n"
    if arguments:
        rows = ([code(_argument(*entry)), *_default_and_help(entry)] for entry in arguments)
        yield table(("Argument", "Default", "Meaning"), rows)
    if options:
        rows = ([code(_option(*entry)), *_default_and_help(entry)] for entry in options)
        yield table(("Option", "Default", "Meaning"), rows)
    if examples:
        yield "\n".join(["<!-- parsed -->", "```bash", *examples, "```", ""])


def _texts_and_examples(help_text: str, epilog: str) -> tuple[list[str], list[str]]:
    """Return the paragraphs of a help text and its epilog, and the commands among them."""
    texts: list[str] = []
    examples: list[str] = []
    for paragraph in f"{help_text}\n\n{epilog}".replace("\b\n", "").split("\n\n"):
        bare = paragraph.strip()
        if bare.startswith("Examples:\n"):  # one command a line; deeper lines continue it
            indented = bare.splitlines()[1:]
            margin = min(len(line) - len(line.lstrip()) for line in indented)
            for line in (line[margin:] for line in indented):
                if line.startswith(" "):
                    examples[-1] += " \\"
                examples.append(line)
        elif paragraph.startswith(("`", "    ")):
            examples.append(bare.strip("`"))
        elif bare and bare != "Examples:":
            texts.append(" ".join(bare.split()))
    return texts, examples


def _usage(called: str, arguments: list[Any], options: list[Any]) -> str:
    required = [_option(*entry) for entry in options if entry[2].default is ...]
    others = ["[OPTIONS]"] if len(required) < len(options) else []
    return " ".join([called, *others, *required, *(_argument(*entry) for entry in arguments)])


def _argument(name: str, annotation: Any, info: ArgumentInfo) -> str:
    repeated = "..." if _item_type(annotation) is not None else ""
    if info.metavar is not None:
        return info.metavar.replace("…", "...").removesuffix("...") + repeated
    shown = name.upper() + repeated
    return shown if info.default is ... else f"[{shown}]"


def _option(name: str, annotation: Any, info: OptionInfo) -> str:
    names = " / ".join(part for given in info.param_decls or () for part in given.split("/"))
    kind = _plain(annotation)
    if kind is bool:
        return names or f"--{name.replace('_', '-')} / --no-{name.replace('_', '-')}"
    value = info.metavar or _value(kind)
    return f"{names or '--' + name.replace('_', '-')} {value}"


def _value(kind: Any) -> str:
    item = _item_type(kind)
    if item is not None:
        return f"{_value(item)} ..."
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "|".join(entry.value for entry in kind)
    return _TYPES[kind]


def _plain(annotation: Any) -> Any:
    """Return the type of an annotation, without None."""
    if get_origin(annotation) in (Union, types.UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
    return annotation


def _item_type(annotation: Any) -> Any:
    annotation = _plain(annotation)
    return get_args(annotation)[0] if typing.get_origin(annotation) is list else None


def _default(info: OptionInfo | ArgumentInfo) -> str:
    value = info.default
    if value is ...:
        return "required"
    if value is None or value is False:
        return ""
    if value is True:
        return "yes"
    if isinstance(value, Enum):
        value = value.value
    return code(
        format_quantity(value) if info.parser is not None and isinstance(value, int) else str(value)
    )


def _default_and_help(entry: Any) -> tuple[str, str]:
    """Return the default of a parameter, also one stated in its help, and its help with bounds."""
    info = entry[2]
    stated = re.search(r" [\[(]default: ([^])]+)[\])]", info.help or "")
    default = stated.group(1) if stated else _default(info)
    meaning = (info.help or "").replace(stated.group(0) if stated else "\0", "")
    low, high = info.min, info.max
    bounds = f" From {low} to {high}." if None not in (low, high) else ""
    if not bounds and low is not None:
        bounds = f" At least {low}."
    if isinstance(info, OptionInfo) and _item_type(entry[1]) is not None:
        bounds += "" if "repeat" in meaning.lower() else " Repeatable."
    return default, f"{meaning}{bounds}"
