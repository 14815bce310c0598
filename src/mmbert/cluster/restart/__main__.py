"""Command line of the restart loop, which slurm/pretrain.sbatch runs on the first node of a job."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from mmbert.cluster.restart.loop import RestartLoop, Training
from mmbert.cluster.restart.rank_start import Stop
from mmbert.cluster.restart.slurm_job import SlurmJob, allocation_from_env
from mmbert.cluster.site import load_site
from mmbert.command_line.running import run_application
from mmbert.command_line.values import parse_output_folder
from mmbert.errors import ArgumentError

STOP = Stop()
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    help="Train in a Slurm job, starting the ranks again after a failure.",
)
def restart(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="As of mmbert.pretrain.")],
    data: Annotated[str, typer.Option(help="As of mmbert.pretrain.")],
    output: Annotated[Path, typer.Option(parser=parse_output_folder, help="Run folder.")],
    variant: Annotated[str | None, typer.Option(help="As of mmbert.pretrain.")] = None,
    leave_out_slow_nodes: Annotated[
        bool,
        typer.Option("--leave-out-slow-nodes", help="Requeue without nodes reported as slow."),
    ] = False,
    srun_word: Annotated[
        list[str] | None, typer.Option(help="Further word of srun, for a container.")
    ] = None,
    python_word: Annotated[
        list[str] | None, typer.Option(help="Word that starts Python in a task. Default: this one.")
    ] = None,
) -> int:
    if "SLURM_JOB_ID" not in os.environ:
        raise ArgumentError(
            "not running as a Slurm job", remedy="use: sbatch slurm/pretrain.sbatch"
        )
    words = ["--recipe", recipe, "--data", data, "--output", str(output)]
    words += ["--variant", variant] if variant is not None else []
    training = Training(
        recipe,
        tuple(word for word in context.args if "=" in word and not word.startswith("-")),
        output / "variants" / variant if variant is not None else output,
        (*words, *context.args),
        srun_words=tuple(srun_word or ()),
        python=tuple(python_word or (sys.executable,)),
    )
    site = os.environ.get("MMBERT_SITE")
    leave_out_slow_nodes |= bool(site) and load_site(Path(str(site))).leave_out_slow_nodes
    job = SlurmJob()
    allocation = allocation_from_env(os.environ, job.hosts())
    loop = RestartLoop(job, allocation, training, STOP, leave_out_slow_nodes=leave_out_slow_nodes)
    return loop.run()


def main() -> None:
    """Run the command line; exits with the status of the job."""
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, STOP.handle)
    sys.exit(run_application(app))


if __name__ == "__main__":
    main()
