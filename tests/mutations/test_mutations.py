"""Patches of all faults apply to the code; trials distinguish seen, unseen and broken faults."""

import difflib
import shutil
import subprocess
from pathlib import Path

import pytest

from mmbert.errors import UserError
from tests.mutations.copies import apply
from tests.mutations.faults import read_fault, read_faults
from tests.mutations.running import try_all
from tests.mutations.trials import Verdict
from tests.mutations.verdicts import Verdicts
from tests.support.environment import ROOT

CODE = """def double(x: int) -> int:
    return 2 * x


def half(x: int) -> int:
    return x // 2
"""
DOUBLED = CODE.replace("2 * x", "3 * x")
HALVED = CODE.replace("x // 2", "x // 3")
TESTS = """import os

from arithmetic import double


def test_double() -> None:
    assert double(4) == 8


def test_that_needs_its_environment() -> None:
    assert double(4) == int(os.environ["EIGHT"])
"""


def difference(before: str, after: str, name: str) -> str:
    lines = before.splitlines(keepends=True), after.splitlines(keepends=True)
    return "".join(difflib.unified_diff(*lines, f"a/{name}", f"b/{name}"))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Repository with a module, its tests, and the plugin that trials load."""
    root = tmp_path / "tree"
    (root / "src").mkdir(parents=True)
    (root / "tests" / "mutations").mkdir(parents=True)
    (root / "src" / "arithmetic.py").write_text(CODE)
    (root / "tests" / "test_arithmetic.py").write_text(TESTS)
    (root / "tests" / "__init__.py").touch()
    plugin = "without_shrinking.py"
    shutil.copy(ROOT / "tests" / "mutations" / plugin, root / "tests" / "mutations" / plugin)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


def write_fault(folder: Path, name: str, test: str, diff: str, more: str = "") -> None:
    folder.mkdir(exist_ok=True)
    text = f"What: something\nCost: much\nTest: tests/test_arithmetic.py::{test}\n{more}\n{diff}"
    (folder / f"{name}.patch").write_text(text)


def test_each_verdict_and_that_it_is_kept(tree: Path, tmp_path: Path) -> None:
    doubled = difference(CODE, DOUBLED, "src/arithmetic.py")
    halved = difference(CODE, HALVED, "src/arithmetic.py")
    folder = tmp_path / "faults"
    write_fault(folder, "1-seen", "test_double", doubled)
    write_fault(folder, "2-unseen", "test_double", halved)
    write_fault(folder, "3-stale", "test_double", doubled.replace("2 * x", "4 * x"))
    write_fault(folder, "4-no-such-test", "test_gone", doubled)
    write_fault(folder, "5-fails-anyway", "test_that_needs_its_environment", doubled)
    needs = "test_that_needs_its_environment"
    write_fault(folder, "6-with-its-environment", needs, doubled, "Environment: EIGHT=8\n")
    faults, kept = read_faults(folder=folder), tmp_path / "build" / "verdicts.jsonl"
    trials = {t.fault[0]: t for t in try_all(faults, Verdicts(kept, "a tree"), 2, root=tree)}
    assert {number: trials[number].verdict for number in sorted(trials)} == {
        "1": Verdict.SEEN,
        "2": Verdict.UNSEEN,
        "3": Verdict.BROKEN,
        "4": Verdict.BROKEN,
        "5": Verdict.BROKEN,
        "6": Verdict.SEEN,
    }
    assert trials["1"].remark == "test_arithmetic::test_double"
    assert "does not apply" in trials["3"].remark
    assert "not found" in trials["4"].remark
    assert "fails without the fault" in trials["5"].remark
    assert (tree / "src" / "arithmetic.py").read_text() == CODE
    known = Verdicts(kept, "a tree")
    assert [fault.name[0] for fault in known.without_known(faults)] == ["3", "4", "5"]
    assert len(Verdicts(kept, "another tree").without_known(faults)) == len(faults)


def test_every_fault_fits_the_code_and_names_tests_that_exist() -> None:
    """Otherwise, only the next `make test-mutations` would report it as broken."""
    faults = read_faults()
    assert len(faults) >= 150
    assert {
        fault.name: why for fault in faults if (why := apply(fault.path, ROOT, check=True))
    } == {}
    for fault in faults:
        for test in (word for word in fault.tests if word.startswith("tests/")):
            file, _, name = test.partition("::")
            text = (ROOT / file).read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}(" in text or not name, f"{fault.name}: no {test}"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("What: a\nCost: b\n\n", "line 3: the header ends without Test"),
        ("What: a\nWhat: b\n\n", "line 2"),
        ("What: a\nTests: b\n\n", "line 2: 'Tests: b'"),
    ],
)
def test_a_malformed_header_is_named(tmp_path: Path, header: str, said: str) -> None:
    (tmp_path / "1-fault.patch").write_text(header)
    with pytest.raises(UserError, match=said):
        read_fault(tmp_path / "1-fault.patch")


def test_a_beginning_that_fits_nothing_is_refused() -> None:
    with pytest.raises(UserError, match="begins with 'zero'"):
        read_faults(("zero",))
