"""The `mmbert` command, with all commands except preprocessing and training.

- `app`: the Typer application and its output console.
- `inspect_commands`: `doctor`, `plan`, `inspect`, `results`.
- `model_commands`, `evaluate_command`: `export`, `fill-mask`, `merge`; `evaluate`.
- `publish_command`: `publish`.
- `import_command`: `import`.
- `ablate_command`: `ablate`, `tune`.
- `decay_command`: `decay`.
- `cluster_commands`: `submit`, `status`.
- `packaged_commands`: `recipes`, `slurm-scripts`, `fault-drill`.
- `report_command`: `report`.
"""

import sys

from mmbert.cli import (
    ablate_command,
    cluster_commands,
    decay_command,
    evaluate_command,
    import_command,
    inspect_commands,
    model_commands,
    packaged_commands,
    publish_command,
    report_command,
)
from mmbert.cli.app import app
from mmbert.command_line.running import run_application
from mmbert.waiting_threads import sleep_while_waiting

__all__ = [
    "ablate_command",
    "app",
    "cluster_commands",
    "decay_command",
    "evaluate_command",
    "import_command",
    "inspect_commands",
    "main",
    "model_commands",
    "packaged_commands",
    "publish_command",
    "report_command",
]


def main() -> None:
    """Run the command line; an error that the user can fix exits with status 2."""
    sleep_while_waiting()
    sys.exit(run_application(app))
