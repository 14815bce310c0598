"""`make test-oldest`: the lowest versions, outside `.venv`, reused until setup.py changes."""

import subprocess
from pathlib import Path

import pytest

from mmbert.errors import UserError
from tests.environments.fakes import source_files, write_tree
from tests.environments.making import NEWEST_PYTHON, make_environment, run_tests


@pytest.mark.usefixtures("only_registry")
def test_the_oldest_versions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = write_tree(tmp_path / "tree", ["plain>=1.0", "pure>=3"])
    for name, text in source_files("tiny", "0.1", "py3-none-any").items():
        (tree / name).write_text(text)
    python = make_environment("oldest", tree, ())
    said = capsys.readouterr().out
    assert said.index("the oldest releases") < said.index("downloading 3 packages")
    assert python == tree / ".venv-oldest" / "bin" / "python"
    program = "import plain, below, pure, tiny; print(plain.version, below.version, pure.version)"
    result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["1.0", "1.5", "4.0"], "packages not named are the newest"
    assert run_tests(python, [], tree) == 1, "it lacks pytest, whose exit status is returned"
    before = python.stat().st_ctime_ns
    assert make_environment("oldest", tree, ()) == python
    assert "it matches setup.py" in capsys.readouterr().out
    assert python.stat().st_ctime_ns == before
    write_tree(tree, ["plain>=9"])
    with pytest.raises(UserError, match="plain"):
        make_environment("oldest", tree, ())


@pytest.mark.long
@pytest.mark.usefixtures("only_registry")
def test_the_newest_versions_are_made_again_when_there_are_newer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_tree(tmp_path / "tree", ["plain>=1.0"])
    for name, text in source_files("tiny", "0.1", "py3-none-any").items():
        (tree / name).write_text(text)
    make_environment("newest", tree, ())
    made = capsys.readouterr().out
    make_environment("newest", tree, ())
    assert "it has the newest releases" in capsys.readouterr().out
    assert "downloading" in made
    newer = tree / ".venv-newest" / "versions.txt"
    newer.write_text(newer.read_text().replace("plain==", "plain==0."))
    make_environment("newest", tree, ())
    assert "downloading" in capsys.readouterr().out


def test_a_python_that_the_oldest_releases_do_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NEWEST_PYTHON, "oldest", (3, 10))
    with pytest.raises(UserError, match=r"no wheels for Python 3\..*\n.*PYTHON=python3.11"):
        make_environment("oldest", tmp_path)
