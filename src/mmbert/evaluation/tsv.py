"""Reader of two-column TSV files; errors name file and line."""

from collections.abc import Iterator
from pathlib import Path

from mmbert.errors import EvaluationDataError
from mmbert.files import read_text


def read_lines(path: Path, first: str) -> Iterator[tuple[int, str, str]]:
    """Yield (line number, first column, text) of every non-empty line.

    `first` names the first column in messages. Raises EvaluationDataError if the file cannot be
    read or a line lacks a column.
    """
    try:
        # Not splitlines(): a text may contain Unicode line separators.
        lines = read_text(path).split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationDataError(
            f"cannot read {path}: {error}",
            remedy="give a TSV file in UTF-8, or in UTF-16 with a byte order mark",
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        key, _, text = line.partition("\t")
        if not key.strip() or not text.strip():
            raise EvaluationDataError(
                f"{path}:{number}: expected {first}, tab and text",
                remedy=f"write each line as {first}<tab>text",
            )
        yield number, key.strip(), text.strip()
