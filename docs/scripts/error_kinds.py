"""Page of errors, exit statuses and stopped runs (docs/faults.md), from the tables in the code."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from docs.scripts.markdown import GENERATED, code, table
from mmbert.error_kinds import ERROR_KINDS, ErrorKind
from mmbert.exit_statuses import EXIT_STATUSES

MANUAL = Path(__file__).with_name("faults_manual.md")
"""Hand-written parts: the introduction and the section on stopped runs, with a line between."""
_CUT = "<!-- tables -->\n"

_STATUSES = """\
## Exit statuses

Look up the status of a program (`echo $?`; `ExitCode` of `scontrol show job`) here. Statuses from
128 on are those of a shell for a program that was ended by a signal: 128 plus its number.
`deepspeed`, `srun` and `mpirun` pass the status of a failed rank on, and so do `mmbert ablate`,
`mmbert tune` and `mmbert decay`; `torchrun` exits with 1 whatever it was.
"""

_KINDS = """\
## Kinds of errors

Each kind is a subclass of `mmbert.errors.UserError`. All exit with status 2.
"""


def render() -> str:
    """Return the page."""
    introduction, stopped_runs = MANUAL.read_text(encoding="utf-8").split(_CUT)
    statuses = (
        (str(entry.status), ", ".join(entry.programs), entry.meaning, entry.action)
        for entry in EXIT_STATUSES
    )
    kinds = ((f"[{code(k.name)}](#{k.name.lower()})", k.meaning) for k in ERROR_KINDS)
    parts = [
        GENERATED,
        introduction.rstrip("\n") + "\n",
        _STATUSES,
        table(("Status", "Programs", "Meaning", "What to do"), statuses),
        _KINDS,
        table(("Kind", "Meaning"), kinds),
        *(part for kind in ERROR_KINDS for part in _kind(kind)),
    ]
    return "\n".join([*parts, stopped_runs])


def _kind(kind: ErrorKind) -> Iterator[str]:
    yield f"### {kind.name}\n"
    yield f"{kind.meaning}\n"
    yield _wrap(f"**What to do:** {kind.action}")
    yield _wrap(f"**Example:** {kind.situation}")
    yield "<!-- shown: output -->"
    yield f"```text\n$ {kind.command}\n{kind.printed}\n```\n"


def _wrap(text: str) -> str:
    """Wrap a paragraph at 100 columns, outside code spans."""
    whole = re.sub("`[^`]+`", lambda span: span[0].replace(" ", "\0"), text)
    lines = textwrap.wrap(whole, 100, break_long_words=False, break_on_hyphens=False)
    return "\n".join([*lines, ""]).replace("\0", " ")
