"""docs/glossary.md: terms are unique and ordered, their paths and recipe keys exist."""

import re
from typing import Any

from mmbert.recipe import Recipe
from tests.support.environment import ROOT

TEXT = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
_ROW = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.M)


def terms() -> list[list[tuple[str, str]]]:
    """Return (term, meaning) of each section's table."""
    sections = [_ROW.findall(section) for section in re.split(r"\n## ", TEXT)[1:]]
    return [[row for row in section if row[0] not in ("Term", "---")] for section in sections]


def test_terms_are_unique_and_in_alphabetical_order() -> None:
    found = [[term.lower() for term, _ in section] for section in terms()]
    assert found == [sorted(section) for section in found]
    flat = [term for section in found for term in section]
    assert len(flat) == len(set(flat)) > 50


def test_paths_exist() -> None:
    paths = re.findall(r"`((?:src|kernels|data_prep|tests)/[\w/.]+)`", TEXT)
    assert len(paths) > 15
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_recipe_keys_exist() -> None:
    keys = set(re.findall(r"`((?:batch|model|parallel|guard|data)\.[a-z_.*]+)`", TEXT))
    schema: dict[str, Any] = Recipe.model_json_schema()

    def exists(node: dict[str, Any], parts: list[str]) -> bool:
        (node,) = node.get("allOf", [node])  # of a reference with a description, in older pydantic
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].split("/")[-1]]
        if not parts:
            return True
        if parts[0] == "*":
            return exists(node["items"], parts[1:])
        properties = node.get("properties", {})
        return parts[0] in properties and exists(properties[parts[0]], parts[1:])

    assert len(keys) > 8
    assert [key for key in keys if not exists(schema, key.split("."))] == []
