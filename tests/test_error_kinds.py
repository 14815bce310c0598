"""Kinds of errors: every raise site uses one, the table is complete, its examples are real."""

import ast
import functools
import pickle
import re
from pathlib import Path

import pytest

from mmbert import errors
from mmbert.checkpoint.format import CheckpointDamagedError
from mmbert.error_kinds import ERROR_KINDS, ErrorKind
from mmbert.errors import UserError
from mmbert.exit_statuses import EXIT_STATUSES
from tests.support.environment import ROOT
from tests.support.error_examples import provoke

PACKAGES = ("src", "data_prep", "kernels")
KINDS = [kind.error for kind in ERROR_KINDS]


def name_of(node: ast.expr) -> str:
    """The last part of a dotted name, else nothing."""
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


@functools.cache
def nodes() -> list[tuple[Path, ast.AST]]:
    """Every node of the three packages' code, with its file."""
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return [
        (path, node)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    ]


def test_every_error_of_the_packages_is_of_a_kind() -> None:
    kinds, sites, wrong = {kind.__name__ for kind in KINDS}, 0, []
    for path, node in nodes():
        if isinstance(node, ast.Call):
            sites += name_of(node.func) in kinds
            if name_of(node.func) == "UserError":
                wrong.append(f"{path}:{node.lineno}")
        if isinstance(node, ast.ClassDef) and path.name != "errors.py":
            wrong += [
                f"{path}:{node.lineno}" for base in node.bases if name_of(base) == "UserError"
            ]
    assert not wrong
    assert sites > 200


def test_every_kind_is_in_the_table_and_used() -> None:
    defined = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and UserError in value.__bases__
    ]
    assert sorted(KINDS, key=lambda kind: kind.__name__) == sorted(
        defined, key=lambda kind: kind.__name__
    )
    called = {name_of(node.func) for _, node in nodes() if isinstance(node, ast.Call)}
    assert {kind.__name__ for kind in KINDS} <= called
    for kind in ERROR_KINDS:
        assert re.fullmatch(r"[A-Z][^\n]+\.", kind.meaning), kind.name


@pytest.mark.parametrize("kind", [*KINDS, CheckpointDamagedError])
def test_a_kind_survives_the_way_to_another_process(kind: type[UserError]) -> None:
    error = kind("the file is broken", remedy="mend it")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error) == "the file is broken\n  → mend it"
    assert (copy.message, copy.remedy) == ("the file is broken", "mend it")


@pytest.mark.parametrize("kind", ERROR_KINDS, ids=lambda kind: kind.name)
def test_the_example_is_what_the_command_prints(
    kind: ErrorKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = provoke(kind, tmp_path, monkeypatch)
    assert outcome.kind == kind.name
    assert outcome.printed == kind.printed
    assert outcome.status == kind.exit_status


def test_the_statuses_of_programs_and_scripts_are_in_the_table() -> None:
    listed = {entry.status for entry in EXIT_STATUSES}
    constants = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    scripts = {
        int(status)
        for path in (ROOT / "slurm").iterdir()
        for status in re.findall(r"\b(?:exit |status=)(\d+)", path.read_text(encoding="utf-8"))
    }
    assert {0, *constants, *scripts} <= listed
    assert scripts >= {1, 2, 75, 143}
    assert [entry.status for entry in EXIT_STATUSES] == sorted(
        entry.status for entry in EXIT_STATUSES
    )
