"""Values of a site, such as its partition, modules and container, from one YAML file."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from mmbert.errors import ArgumentError
from mmbert.files import read_text
from mmbert.recipe.base import Name, Settings

SITE_NAME = "site.yaml"
StepName = Literal["preprocess", "pretrain", "decay", "merge", "evaluate"]
_TIME = re.compile(r"\d+(-\d+(:\d+){0,2}|(:\d+){0,2})")


def _time(value: Any) -> Any:
    """Return a time limit that is text in one of Slurm's forms."""
    if isinstance(value, int | float):  # YAML reads 12:00:00 as a number in base 60
        raise ValueError("quote the time, such as '12:00:00': YAML reads it as a number otherwise")
    if isinstance(value, str) and _TIME.fullmatch(value) is None:
        raise ValueError("write a time as 'minutes', 'hours:minutes:seconds' or 'days-hours'")
    return value


def _text(value: Any) -> Any:
    """Return a value of a variable as text; numbers need no quotes."""
    if isinstance(value, bool):
        raise ValueError("quote it: YAML reads the word as true or false")
    return str(value) if isinstance(value, int | float) else value


def _one_line(value: Any) -> Any:
    if isinstance(value, str) and ("\n" in value or "\0" in value):
        raise ValueError("it has more than one line")
    return value


Word = Annotated[Name, BeforeValidator(_one_line)]
"""Value of an option: one line that is not blank."""
Time = Annotated[str, BeforeValidator(_time)]
"""Time limit in one of Slurm's forms."""
Bind = Annotated[str, Field(pattern=r"^[^,\n:]+(:[^,\n:]+){0,2}$")]
"""FOLDER, FOLDER:PLACE or FOLDER:PLACE:OPTIONS."""
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
"""Name of an environment variable."""
Count = Annotated[int, Field(ge=1, le=1_000_000)]


class JobValues(Settings):
    """Options of sbatch."""

    partition: Word | None = None
    """Partition (`--partition`). Default: the cluster's."""
    account: Word | None = None
    """Account that is charged (`--account`). Default: yours."""
    qos: Word | None = None
    """Quality of service (`--qos`). Default: that of the account."""
    reservation: Word | None = None
    """Reservation (`--reservation`). Default: none."""
    time: Time | None = None
    """Time limit (`--time`), in quotes. Default: the partition's. Training saves and continues in
    another job time, so that it may be shorter than the run."""
    nodes: Count | None = None
    """Nodes of a training job. Default: 1."""
    gpus_per_node: int | None = Field(default=None, ge=0, le=1024)
    """GPUs of a node, each with one task; the dies of a card that has two count (8 for four
    MI250X). 0: train on CPUs. Default: what Slurm gives the job, which cannot be checked before."""
    tasks_per_node: Count | None = None
    """Tasks of a node without GPUs. Default: 1 in training, one per CPU in preprocessing."""
    cpus_per_task: Count | None = None
    """CPUs of a task (`--cpus-per-task`). Default: those of the node, divided by its tasks."""
    sbatch: tuple[Word, ...] = ()
    """Further options of sbatch, such as `--constraint=a100`. Those of a step come after those of
    the site."""


class Container(Settings):
    """Container that the tasks run in."""

    kind: Literal["apptainer", "singularity", "pyxis"]
    """`apptainer` or `singularity`: `srun … apptainer exec …`. `pyxis`: `srun --container-image=…`,
    where the cluster has that plugin."""
    image: Word
    """Image: a .sif file, or what Pyxis takes. mmbert must be installed in it."""
    gpu: Literal["nv", "rocm"] | None = None
    """Libraries of the host's GPUs in Apptainer: `nv` for NVIDIA, `rocm` for AMD. Pyxis finds GPUs
    by itself."""
    binds: tuple[Bind, ...] = ()
    """Folders that are seen inside: FOLDER, or FOLDER:PLACE. Text, recipe and output must be below
    one of them."""
    python: Word = "python3"
    """Python inside."""
    options: tuple[Word, ...] = ()
    """Further options of `apptainer exec`, or of srun with Pyxis."""


class Site(JobValues):
    """Values that the jobs of a cluster need, whatever they train."""

    gpu: Word | None = None
    """GPU model for the time in the plan (h100, h200, a100, …). Default: no estimate."""
    modules: tuple[Word, ...] = ()
    """Modules to load, in order (`module load`)."""
    setup: tuple[str, ...] = ()
    """Lines of bash that every job runs after loading the modules."""
    environment: dict[Variable, Annotated[str, BeforeValidator(_text)]] = Field(
        default_factory=dict
    )
    """Variables of all tasks, such as NCCL_SOCKET_IFNAME or FI_PROVIDER."""
    container: Container | None = None
    """Container that the tasks run in. Default: none."""
    steps: dict[StepName, JobValues] = Field(default_factory=dict)
    """Options that differ for a step: preprocess, pretrain, decay, merge, evaluate."""
    leave_out_slow_nodes: bool = Field(default=False)
    """Whether nodes that were reported as slow are left out of the next start."""

    def of_step(self, step: StepName) -> JobValues:
        """Return the values of a step: its own, else the site's.

        Nodes, GPUs, tasks and CPUs of the site are those of training; other steps have their own.
        """
        own = self.steps.get(step, JobValues())
        found = {name: getattr(own, name) for name in JobValues.model_fields}
        shared = ["partition", "account", "qos", "reservation", "time"]
        if step in ("pretrain", "decay"):
            shared += ["nodes", "gpus_per_node", "tasks_per_node", "cpus_per_task"]
        for name in shared:
            if found[name] is None:
                found[name] = getattr(self, name)
        if step == "evaluate" and found["gpus_per_node"] is None:
            found["gpus_per_node"] = min(self.gpus_per_node or 0, 1)
        return JobValues(**found | {"sbatch": (*self.sbatch, *own.sbatch)})

    def with_nodes(self, nodes: int) -> "Site":
        """Return these values with another number of nodes of training jobs."""
        steps = {
            name: values.model_copy(update={"nodes": None})
            if name in ("pretrain", "decay")
            else values
            for name, values in self.steps.items()
        }
        return self.model_copy(update={"nodes": nodes, "steps": steps})


def load_site(path: Path | None, overrides: Sequence[str] = ()) -> Site:
    """Read a site file and apply `overrides` such as `steps.pretrain.nodes=4`.

    Args:
        path: the file; None: no values but the overrides.

    Raises:
        ArgumentError: the file is missing or invalid, or an override is.
    """
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(read_text(path)) or {}
        except (OSError, UnicodeDecodeError) as error:
            raise ArgumentError(
                f"the site file {path} cannot be read: {getattr(error, 'strerror', error)}",
                remedy="name it with --site, or copy one of slurm/sites to slurm/site.yaml",
            ) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ArgumentError(
                f"the site file {path} is not valid YAML: {error}", remedy="fix that line"
            ) from error
    origin = "--set" if path is None else str(path)
    if not isinstance(values, dict):
        raise ArgumentError(
            f"the site file {path} is not a mapping of keys to values",
            remedy="see slurm/sites for examples",
        )
    for override in overrides:
        _override(values, override)
    try:
        return Site.model_validate(values)
    except ValidationError as error:
        raise _site_error(error, origin) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ArgumentError(
            f"--set {override!r} is not KEY=VALUE", remedy="write it as time=12:00:00"
        )
    *folders, last = key.strip().split(".")
    target = values
    for folder in folders:
        if not isinstance(target.get(folder), dict):
            target[folder] = {}
        target = target[folder]
    try:
        # A time is text without quotes, too.
        target[last] = text if _TIME.fullmatch(text) and ":" in text else yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"the value of --set {override!r} is not valid YAML", remedy="quote it"
        ) from error


def _site_error(error: ValidationError, origin: str) -> ArgumentError:
    """Describe all mistakes, each with file, key and value."""
    lines = []
    for mistake in error.errors():
        key = ".".join(str(part) for part in mistake["loc"] if part != "[key]")
        text = mistake["msg"].removeprefix("Value error, ")
        value = mistake["input"]
        shown = "" if isinstance(value, dict) else f" (its value: {_short(value)})"
        if mistake["type"] == "literal_error" and isinstance(value, str):
            expected = re.findall(r"'([^']+)'", str(mistake.get("ctx", {}).get("expected", "")))
            near = difflib.get_close_matches(value, expected, n=1)
            text += f"; did you mean '{near[0]}'?" if near else ""
        lines.append(f"{origin}: {key}: {text}{shown}" if key else f"{origin}: {text}")
    return ArgumentError(
        "\n".join(lines), remedy="correct the key; slurm/sites has examples with every key"
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
