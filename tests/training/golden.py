"""Golden losses: losses of a small run on four grids and with every optimizer, compared bitwise.

    python -m tests.training.golden            compare; status 1 if a loss differs
    python -m tests.training.golden --write    after a change that is meant to change numbers

Sums of floats depend on the order that a processor's instructions suggest, so bits are compared
where the kind of processor and torch are those of the committed file; elsewhere the losses must
agree to 1e-4, and the output says so.
"""

import hashlib
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import get_args

import torch

from mmbert.recipe.optimizers import OptimizerName
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import options_for, step_losses, write_inputs

FILE = Path(__file__).with_name("golden_losses.json")
GRIDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "one rank": (1, ()),
    "two data ranks, ZeRO 2": (2, ("parallel.zero_stage=2",)),
    "two tensor ranks": (2, ("parallel.tensor=2", "parallel.sequence=true")),
    "one rank, bfloat16": (1, ("precision=bfloat16",)),
    **{
        f"one rank, {name}": (1, (f"optimizer.name={name}",))
        for name in get_args(OptimizerName)
        if name != "stable_adamw"
    },
}
TOLERANCE = 1e-4


def environment() -> dict[str, str]:
    """What the bits of a loss depend on besides the code."""
    processors = Path("/proc/cpuinfo")
    lines = processors.read_text().splitlines() if processors.exists() else []
    fields = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in lines)}
    model = [fields.get(name, "?") for name in ("cpu family", "model", "stepping")]
    return {
        "processor": fields.get("model name", platform.machine()),
        # A virtual machine's name says little; libraries choose their code by what it can do.
        "model": "/".join(model),
        "abilities": hashlib.sha256(fields.get("flags", "").encode()).hexdigest()[:12],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }


def measure() -> dict[str, list[float]]:
    """Losses of every step on every grid."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        inputs = write_inputs(Path(folder))
        for name, (world_size, overrides) in GRIDS.items():
            options = options_for(inputs, inputs / name.replace(" ", "-"), *overrides)
            statuses = run_to_the_end(options, world_size=world_size)
            if statuses != [0] * world_size:
                raise RuntimeError(f"{name}: statuses {statuses}\n{output_of(options)}")
            losses[name] = [loss for _, loss in sorted(step_losses(options.output).items())]
    return losses


def differences(
    golden: dict[str, list[float]], measured: dict[str, list[float]], tolerance: float
) -> list[str]:
    """A line for every grid whose losses differ, with the first step that does."""
    lines = []
    for name, expected in golden.items():
        found = measured[name]
        if len(found) != len(expected):
            lines.append(f"{name}: {len(found)} steps, golden {len(expected)}")
            continue
        for step, (ours, theirs) in enumerate(zip(found, expected, strict=True), 1):
            # Written so that a loss that is not a number differs.
            if not abs(ours - theirs) <= tolerance * abs(theirs):
                lines.append(f"{name}: step {step}: {ours!r}, golden {theirs!r}")
                break
    return lines


def main() -> int:
    """Compare, or write with `--write`; the exit status."""
    measured, here = measure(), environment()
    if "--write" in sys.argv[1:]:
        FILE.write_text(json.dumps({"environment": here, "losses": measured}, indent=1) + "\n")
        print(f"wrote {FILE}")
        return 0
    committed = json.loads(FILE.read_text())
    same = committed["environment"] == here
    if not same:
        print(f"golden losses are of {committed['environment']}, this is {here}:")
        print(f"comparing to {TOLERANCE:g} instead of bit for bit")
    found = differences(committed["losses"], measured, 0.0 if same else TOLERANCE)
    print("\n".join(found) or f"golden losses hold in {len(GRIDS)} runs")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
