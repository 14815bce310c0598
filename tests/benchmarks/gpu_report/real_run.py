"""Part of the GPU report: a real run that is killed, resumed and exported.

The demo's recipe in bfloat16, cut to 50 steps per phase, under the `deepspeed` launcher. Launcher
and rank are killed with SIGKILL in the second phase, and the same command is started again. The
export compares logits with those of transformers.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_gpu_step import OPERATIONS
from tests.benchmarks.gpu_report.options import device_of, part_parser
from tests.benchmarks.gpu_report.records import Recorder
from tests.benchmarks.gpu_report.run_data import RECIPE, make_data
from tests.support.environment import ROOT, on_a_gpu, with_packages
from tests.support.ranks import free_port

STEPS = 50
POLL_SECONDS = 0.2
# What a CPU trains in a second.
TINY = (
    "model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=2",
    "model.num_attention_heads=2", "batch.row_tokens=512", "evaluation.documents_per_language=1",
    "phases.pretrain.languages=all", "phases.extension.languages=all",
)  # fmt: skip


class FailedRunError(RuntimeError):
    """A command of the run failed."""


@dataclass(frozen=True)
class Run:
    """Commands of a run, and its log."""

    folder: Path
    shards: Path
    tiny: bool

    @property
    def steps(self) -> int:
        """Steps per phase."""
        return 3 if self.tiny else STEPS

    @property
    def environment(self) -> dict[str, str]:
        if self.tiny:
            return with_packages(DS_ACCELERATOR="cpu", OMP_NUM_THREADS="1")
        return on_a_gpu()

    def training(self) -> list[str]:
        """Return the training command."""
        step_tokens = 2 * (512 if self.tiny else 2048)
        phases = ("pretrain", "extension", "decay")
        return [
            *(sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "1"),
            *("--master_port", str(free_port())),
            *(str(ROOT / "launch" / "pretrain.py"), "--recipe", str(RECIPE)),
            *("--data", str(self.shards), "--output", str(self.folder / "run")),
            *("precision=bfloat16", "logging.every_steps=1"),
            f"checkpoint.every_tokens={step_tokens * max(self.steps // 5, 1)}",
            *(f"phases.{phase}.tokens={step_tokens * self.steps}" for phase in phases),
            *(TINY if self.tiny else ()),
        ]

    def export(self) -> list[str]:
        """Return the export command."""
        program = "from mmbert.cli import main; main()"
        out = (str(self.folder / "run"), str(self.folder / "model"))
        return [sys.executable, "-c", program, "export", *out]

    def steps_logged(self) -> list[dict[str, Any]]:
        """Return the log entries of steps."""
        log = self.folder / "run" / "log.jsonl"
        if not log.exists():
            return []
        whole = log.read_text(encoding="utf-8").rpartition("\n")[0]
        return [entry for entry in map(json.loads, whole.splitlines()) if "step_loss" in entry]

    def start(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start a command in its own process group, so that a kill reaches the ranks too."""
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            text=True,
            process_group=0,
        )

    def finish(self, command: Sequence[str]) -> float:
        """Run a command and return its seconds."""
        begun = time.monotonic()
        status = self.start(command).wait()
        if status != 0:
            raise FailedRunError(f"{' '.join(command[:6])} …: status {status}")
        return time.monotonic() - begun


def kill_in_the_second_phase(run: Run) -> int:
    """Start training, kill it in the second phase, and return the last logged step."""
    process = run.start(run.training())
    try:
        while process.poll() is None:
            logged = run.steps_logged()
            if logged and logged[-1]["step"] > run.steps:
                return int(logged[-1]["step"])
            time.sleep(POLL_SECONDS)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    logged = run.steps_logged()
    if process.returncode == 0 and logged:
        return int(logged[-1]["step"])  # it was over before it could be killed
    raise FailedRunError(f"training ended with status {process.returncode} before the kill")


def measure(run: Run, recorder: Recorder) -> None:
    """Run all commands and record figures. FailedRunError if one fails."""
    begun = time.monotonic()
    killed = kill_in_the_second_phase(run)
    recorder.figure("killed", "after step", killed)
    recorder.figure("killed", "after", time.monotonic() - begun, "s")
    before = {entry["step"] for entry in run.steps_logged()}
    recorder.figure("continued", "whole command", run.finish(run.training()), "s")
    logged = run.steps_logged()
    losses = {entry["step"]: entry["step_loss"] for entry in logged}
    expected = 3 * run.steps
    if sorted(losses) != list(range(1, expected + 1)):
        raise FailedRunError(f"{len(losses)} steps are in the log, {expected} were asked for")
    twice = len(logged) - len(losses)
    recorder.figure("continued", "steps done twice", twice)
    recorder.figure("continued", "new steps", len(set(losses) - before))
    recorder.figure("loss", "first step", losses[1], "nats", OPERATIONS)
    recorder.figure("loss", "last step", losses[expected], "nats", OPERATIONS)
    results = json.loads((run.folder / "run" / "results.json").read_text(encoding="utf-8"))
    held_out = results["phases"][-1]["held_out_end"]["overall"]
    recorder.figure("held-out loss", "at the end", held_out, "nats", OPERATIONS)
    last = logged[-1]
    for quantity, unit in (("tokens_per_second", ""), ("mfu", ""), ("peak_memory_mib", "MiB")):
        if last.get(quantity) is not None:
            recorder.figure("last step", quantity, last[quantity], unit, OPERATIONS)
    recorder.figure("exported, logits compared", "whole command", run.finish(run.export()), "s")


def main() -> int:
    """Train, kill, resume, export; exit status 1 after a failure, 2 without a GPU."""
    parser = part_parser(__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="its shards are made if absent")
    arguments = parser.parse_args()
    device_of(arguments)
    recorder = Recorder("run", arguments.report)
    try:
        make_data(arguments.data.resolve())
    except (OSError, subprocess.CalledProcessError) as error:
        recorder.remark("shards", f"{error}: make them elsewhere (make gpu-report-data)")
        return 1
    with tempfile.TemporaryDirectory(prefix="gpu-report-run-") as folder:
        run = Run(Path(folder), arguments.data.resolve() / "shards", arguments.device == "cpu")
        try:
            measure(run, recorder)
        except FailedRunError as error:
            recorder.remark("failed", str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
