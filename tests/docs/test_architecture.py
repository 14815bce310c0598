"""docs/architecture.md: its paths and tests exist; every promise has a module and a test."""

import re
import tomllib

from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
_CODE = re.compile(r"`([^`]+)`")


def named_paths() -> list[str]:
    """Return the paths in the page's code spans, without the names of tests."""
    first = {entry.name for entry in ROOT.iterdir()}
    paths = [span.partition("::")[0] for span in _CODE.findall(TEXT)]
    return [path for path in paths if path.rstrip("/").split("/")[0] in first and "/" in path]


def rows_after(heading: str) -> list[list[str]]:
    """Return the cells of all table rows below a heading, up to the next one of its level."""
    section = re.split(r"\n## ", TEXT[TEXT.index(heading) + len(heading) :])[0]
    rows = [line.strip("|").split("|") for line in section.splitlines() if line[:1] == "|"]
    return [[cell.strip() for cell in row] for row in rows if set(row[0].strip()) != {"-"}]


def test_every_path_exists() -> None:
    paths = named_paths()
    assert len(paths) > 150
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_test_exists() -> None:
    named = [span.split("::") for span in _CODE.findall(TEXT) if "::" in span]
    assert len(named) > 70
    missing = [
        f"{path}::{name}"
        for path, name in named
        if f"\ndef {name}(" not in (ROOT / path).read_text(encoding="utf-8")
    ]
    assert missing == []


def test_every_promise_names_a_module_and_a_test() -> None:
    promises = [row for row in rows_after("## Promises and their tests") if row[0] != "Promise"]
    assert len(promises) > 40
    for promise, where, tests in promises:
        assert _CODE.search(where), promise
        assert "tests/" not in where, promise
        assert all(span.startswith("tests/") for span in _CODE.findall(tests)), promise
        assert _CODE.search(tests), promise


def test_floors_are_those_of_the_import_contracts() -> None:
    """Packages by floor, in the order of the layers in pyproject.toml."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = contracts["tool"]["importlinter"]["contracts"][0]["layers"]
    wanted = [{name.strip() for name in layer.split("|")} for layer in layers]
    wanted = [floor - {"mmbert.doctor_gpus"} for floor in wanted]
    found = [
        {
            re.sub(r"^(src|kernels|data_prep)/|\.py$", "", path).replace("/", ".")
            for path in _CODE.findall(row[0])
        }
        for row in rows_after("## Floors")[1:]
    ]
    assert found == wanted
