"""Every command on terminals that show little, with paths that look like markup."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_lines import CALLS, INPUTS, call, words_of, write_inputs

PLACE = "in [red]"
"""Rich takes a name in brackets for a color: it would print `in `."""
IN_PLACE = {*INPUTS.values(), "out", "out.html"}


def in_place(value: str) -> str:
    """Return a value of CALLS with a path below PLACE."""
    return f"{PLACE}/{value}" if value in IN_PLACE else value


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / PLACE).mkdir()
    write_inputs(tmp_path / PLACE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CALLS)
def test_forty_columns_of_ascii_without_colors(name: str, folder: Path) -> None:
    values = {key: [in_place(value) for value in found] for key, found in CALLS[name].items()}
    done = call(
        name,
        words_of(name, values),
        encoding="ascii",
        COLUMNS="40",
        NO_COLOR="1",
        TERM="dumb",
    )
    assert done.traceback == ""
    assert done.status == 0, done.stderr
    written = done.stdout + done.stderr
    assert "\x1b[" not in written  # no color
    assert "in /" not in written.replace("\n", "")


def inputs_of(name: str) -> list[str]:
    """Return the parameters of a call that are inputs."""
    return [key for key, found in CALLS[name].items() if found[0] in INPUTS.values()]


@pytest.mark.parametrize("name", [name for name in CALLS if inputs_of(name)])
def test_a_path_that_is_missing_is_named_as_it_is(name: str, folder: Path) -> None:
    """Messages are not wrapped, and nothing in them is markup."""
    values = {key: [in_place(value) for value in found] for key, found in CALLS[name].items()}
    values[inputs_of(name)[-1]] = ["no [red] such/path"]
    done = call(name, words_of(name, values), encoding="ascii", COLUMNS="40")
    assert done.status == 2
    assert "no [red] such/path" in done.stderr
