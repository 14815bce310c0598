"""Writes the generated pages and pictures: `python -m docs.scripts [--check]`."""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

_DOCS = Path(__file__).parents[1]
# Page -> module with `render() -> str`.
PAGES = {
    "commands.md": "commands",
    "faults.md": "error_kinds",
    "recipe-reference.md": "recipe_reference",
}


def rendered_pages() -> Iterator[tuple[Path, str]]:
    """Yield the path and the text of every generated page whose generator exists."""
    for page, name in PAGES.items():
        module = f"docs.scripts.{name}"
        if importlib.util.find_spec(module) is not None:
            yield _DOCS / page, importlib.import_module(module).render()


def stale_pages() -> list[str]:
    """Return the names of the pages that differ from what their generators return."""
    return [
        path.name
        for path, text in rendered_pages()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]


def write_all() -> None:
    """Write all pages and pictures."""
    from docs.scripts import pictures

    for path, text in rendered_pages():
        path.write_text(text, encoding="utf-8")
        print(path)
    for name, svg in pictures.render().items():
        path = _DOCS / "pictures" / name
        path.write_text(svg, encoding="utf-8")
        print(path)


def main() -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs.scripts", description=__doc__)
    parser.add_argument("--check", action="store_true", help="only name pages that differ")
    if not parser.parse_args().check:
        write_all()
        return 0
    stale = stale_pages()
    for name in stale:
        print(f"docs/{name} differs: run `python -m docs.scripts`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
