"""Kinds of errors: every raise site uses one, the table is complete, its examples are real."""

import ast
import functools
import pickle
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from docs.scripts.error_kinds import MANUAL, render
from mmbert import errors
from mmbert.checkpoint.format import CheckpointDamagedError
from mmbert.data.loading.packing import RowShape
from mmbert.error_kinds import ERROR_KINDS, ErrorKind
from mmbert.errors import DeviceError, UserError
from mmbert.exit_statuses import EXIT_STATUSES
from mmbert.model.packed_batch import PackedBatch
from mmbert.recipe import load_recipe
from mmbert.training.fault_tolerance.memory_check import run_memory_check
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
        for path in (ROOT / "slurm").glob("*.*")
        for status in re.findall(r"\b(?:exit |status=)(\d+)", path.read_text(encoding="utf-8"))
    }
    assert {0, *constants, *scripts} <= listed
    assert scripts >= {1, 2, 75, 143}
    assert [entry.status for entry in EXIT_STATUSES] == sorted(
        entry.status for entry in EXIT_STATUSES
    )


def test_the_page_of_errors_is_current() -> None:
    page = ROOT / "docs" / "faults.md"
    assert page.read_text(encoding="utf-8") == render(), "run `python -m docs.scripts`"


@pytest.mark.parametrize(
    "printed",
    [
        "has no finished language",
        "saved at step ",
        "the same command resumes",
        "skipping a damaged checkpoint: ",
        "no progress for ",
        "unresponsive: ",
        "cannot write checkpoint ",
        " cannot be written",
        "non-finite loss or gradient; update dropped",
        "rolled back to ",
        "no rollback after step ",
        "after a loss spike",
        "a worker process was killed (out of memory?)",
    ],
)
def test_messages_of_the_hand_written_part_are_those_of_the_code(printed: str) -> None:
    assert " ".join(printed.split()) in " ".join(MANUAL.read_text(encoding="utf-8").split())
    strings = [node.value for _, node in nodes() if isinstance(node, ast.Constant)]
    assert any(isinstance(text, str) and printed in text for text in strings)


def test_the_message_of_a_phase_that_does_not_fit_is_the_pages() -> None:
    """On a device that has room for contexts up to 1,024."""
    recipe = load_recipe("mmbert-base")

    class SmallDevice:
        device = torch.device("cpu")

        def forward_backward(self, batch: PackedBatch, *_: object, **more: object) -> None:
            if batch.max_seqlen > 1024:
                raise torch.OutOfMemoryError

        def optimizer_step(self, settings: object) -> SimpleNamespace:
            return SimpleNamespace(finite=False)

    engine: Any = SmallDevice()
    shapes = [RowShape.of(recipe.batch.row_tokens, 500.0)] * len(recipe.phases)
    with pytest.raises(DeviceError) as error:
        run_memory_check(engine, recipe, shapes, vocabulary_size=256_000)
    assert f"\nerror: {error.value}\n" in MANUAL.read_text(encoding="utf-8")


def test_links_within_the_page_lead_to_a_heading() -> None:
    headings = re.findall(r"^#+ (.+)$", render(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    links = re.findall(r"\]\(#([^)]+)\)", render())
    assert len(links) > len(KINDS)
    assert set(links) <= anchors
