"""`make test-mutations`: applies each fault to a copy of the tree, where its test must fail."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from mmbert.errors import EXIT_USER_ERROR, UserError
from tests.mutations.copies import fingerprint
from tests.mutations.faults import read_faults
from tests.mutations.running import try_all
from tests.mutations.trials import Trial, Verdict
from tests.mutations.verdicts import Verdicts
from tests.support.environment import ROOT

LEAST_SHARE_SEEN = 0.95
MARKS = {Verdict.SEEN: "green", Verdict.UNSEEN: "red", Verdict.BROKEN: "yellow"}


def _table(trials: list[Trial], whats: dict[str, str]) -> Table:
    table = Table("fault", "what", "verdict", "s", "seen by, or why not", expand=False)
    table.columns[3].justify = "right"
    for trial in sorted(trials, key=lambda trial: trial.fault):
        mark = f"[{MARKS[trial.verdict]}]{trial.verdict}[/]"
        number = trial.fault.partition("-")[0]
        table.add_row(number, whats[trial.fault], mark, f"{trial.seconds:.0f}", trial.remark)
    return table


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help="Prefixes of fault names; all faults by default.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of concurrent trials.")] = 2,
    again: Annotated[bool, typer.Option(help="Repeat trials with a known verdict.")] = False,
    only_list: Annotated[
        bool, typer.Option("--list", help="List the faults without running them.")
    ] = False,
    results: Annotated[
        Path, typer.Option(help="File of verdicts, from which an interrupted run continues.")
    ] = ROOT / "build" / "mutations.jsonl",
) -> None:
    """Apply each fault of tests/mutations/*.patch to a copy of the tree and run its test there.

    A fault is seen if its test passes without it and fails with it, and broken if the patch does
    not apply or the test fails without it. Status 1 if fewer than 95% are seen or any is broken.

    \b
        make test-mutations                     # all, in about 12 minutes
        make test-mutations FAULTS='404 31'     # by name prefix
        python -m tests.mutations --list
        python -m tests.mutations 404 --again
    """
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        faults = read_faults(tuple(names or ()))
        if only_list:
            for fault in faults:
                console.print(f"{fault.name}: {fault.what}", highlight=False)
            return
        verdicts = Verdicts(results, fingerprint())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(EXIT_USER_ERROR) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    trials = try_all(faults, verdicts, workers, again=again)
    console.print(_table(trials, {fault.name: fault.what for fault in faults}))
    count = {verdict: sum(trial.verdict is verdict for trial in trials) for verdict in Verdict}
    share = count[Verdict.SEEN] / len(trials)
    console.print(
        f"{count[Verdict.SEEN]} of {len(trials)} seen ({share:.1%}), "
        f"{count[Verdict.UNSEEN]} unseen, {count[Verdict.BROKEN]} broken"
    )
    if count[Verdict.BROKEN] or share < LEAST_SHARE_SEEN:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
