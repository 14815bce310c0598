"""Exit statuses of the programs, with their meaning and what to do; docs/faults.md lists them."""

from dataclasses import dataclass

from mmbert.errors import EXIT_FAILURE, EXIT_SAVED_START_AGAIN, EXIT_USER_ERROR

ALL = "all"
COMMANDS = "`mmbert`"
TRAINING = "`mmbert.pretrain`"
PREPROCESSING = "`mmbert_prep`"
WHEELS = "`mmbert.wheels`"
PRETRAIN_JOB = "`pretrain.sbatch`"
PREPROCESS_JOB = "`preprocess.sbatch`"
CHAIN_JOBS = "`merge.sbatch`, `evaluate.sbatch`"
DRILL = "`mmbert fault-drill`"
TUNING = "`mmbert tune`"


@dataclass(frozen=True)
class ExitStatus:
    """An exit status of some programs; one status may have several meanings."""

    status: int
    programs: tuple[str, ...]
    meaning: str
    action: str


EXIT_STATUSES = (
    ExitStatus(
        0,
        (ALL,),
        "Done. In training: the last phase, or that of `--stop-after-phase`, is finished.",
        "Nothing.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (ALL,),
        "Unexpected error, printed as a traceback. In training the first line names the rank.",
        "If the traceback does not name a fault of the machine, it is a bug: report it. Training "
        "and preprocessing continue with the same command.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (COMMANDS, PREPROCESSING),
        "Nobody reads the output any more, as of `… | head -1`. Training goes on.",
        "Nothing.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (TRAINING,),
        "No progress for `guard.hang_minutes`, or less where more is known: the watchdog has ended "
        "all ranks.",
        "See [A rank that hangs](#a-rank-that-hangs). `pretrain.sbatch` starts the ranks again.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (PREPROCESSING,),
        "A local worker was killed (the files that were being read are named), or another task of "
        "the Slurm job failed.",
        "Run the same command again; with fewer workers if memory is short. If the same file is "
        "named again, check it.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (PRETRAIN_JOB, PREPROCESS_JOB),
        "Slurm took the job away (canceled, node lost), although `srun` reported success.",
        "Nothing: Slurm requeues the job unless it was canceled.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (PRETRAIN_JOB,),
        "The ranks failed, and three restarts inside the job brought no newer checkpoint; or a "
        "node died, and the job is requeued without it. The status is that of the ranks: 137 if "
        "one was killed, for example.",
        "Look up the cause that the last lines of the log name; submit again to continue.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (PREPROCESS_JOB, CHAIN_JOBS),
        "In a chain: the job has failed three times at the same place, and is not tried again. "
        "Otherwise the status is that of the command that failed.",
        "Correct the cause that `mmbert status` or the log names, then submit the chain again.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (DRILL,),
        "A fault was not survived; the table names it.",
        "Look at the log that the table names, before a long run is trusted to this machine.",
    ),
    ExitStatus(
        EXIT_FAILURE,
        (TUNING,),
        "A best value has no worse ones on both sides after `--most` runs.",
        "Give other values, or a larger `--most`; finished runs are not repeated.",
    ),
    ExitStatus(
        EXIT_USER_ERROR,
        (ALL,),
        "Error that you can fix, of one of the kinds below, or a mistake in the command line.",
        "Do what the line with the arrow says, then run the same command again.",
    ),
    ExitStatus(
        EXIT_USER_ERROR,
        (
            TRAINING,
            PREPROCESSING,
            "`mmbert decay`",
            "`mmbert publish`",
            "`mmbert submit`",
            PRETRAIN_JOB,
        ),
        "Another process writes the folder, or has taken it over.",
        "See [Another process writes to the folder](#another-process-writes-to-the-folder).",
    ),
    ExitStatus(
        EXIT_USER_ERROR,
        ("`make`",),
        "A program failed with any status; `make` prints it as `Error N`.",
        "Look up `N`.",
    ),
    ExitStatus(
        EXIT_SAVED_START_AGAIN,
        (TRAINING, "`mmbert ablate`", TUNING, "`mmbert decay`", PRETRAIN_JOB),
        "Stopped on request, with a checkpoint saved.",
        "Run the same command again to continue. `pretrain.sbatch` requeues itself.",
    ),
    ExitStatus(
        130,
        (COMMANDS, PREPROCESSING, WHEELS),
        "Interrupted with Ctrl-C.",
        "Run the same command again; preprocessing and collected wheels continue.",
    ),
    ExitStatus(
        137,
        (ALL,),
        "Killed with SIGKILL, often for lack of host memory. `deepspeed` reports 247.",
        "Reduce memory or request more. Training and preprocessing continue with the same command; "
        "`pretrain.sbatch` starts the ranks again.",
    ),
    ExitStatus(
        138,
        (TRAINING,),
        "SIGUSR1 before the signal handlers were installed, at startup. `pretrain.sbatch` turns it "
        "into 75.",
        "Run the same command again.",
    ),
    ExitStatus(
        143,
        (PREPROCESSING, PREPROCESS_JOB),
        "Stopped with SIGTERM, or before the time limit of the job.",
        "Run the same command again to continue. `preprocess.sbatch` requeues itself when it was "
        "preempted or at its time limit.",
    ),
    ExitStatus(
        143,
        (TRAINING,),
        "SIGTERM before the signal handlers were installed, at startup. `pretrain.sbatch` turns it "
        "into 75. Also the status of a `deepspeed` launcher that gets SIGTERM: its ranks save and "
        "exit.",
        "Run the same command again.",
    ),
)
"""All exit statuses, in ascending order. Statuses from 128 on are those of a shell for a signal."""
