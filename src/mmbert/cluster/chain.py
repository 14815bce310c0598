"""The output folder of a chain of jobs: its fixed places, and the record of submitted jobs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.cluster.site import StepName
from mmbert.errors import ResumeError
from mmbert.files import write_json

FORMAT = 1
RECORD_NAME = "chain.json"


@dataclass(frozen=True)
class ChainFolder:
    """The output folder of a chain, as an absolute path."""

    path: Path

    @property
    def record(self) -> Path:
        """Submitted jobs."""
        return self.path / RECORD_NAME

    @property
    def recipe(self) -> Path:
        """The recipe, with its overrides and lists: jobs that wait do not read an edited file."""
        return self.path / "recipe.yaml"

    @property
    def site(self) -> Path:
        """Values of the site, with their overrides."""
        return self.path / "site.yaml"

    @property
    def site_script(self) -> Path:
        """What every job sources."""
        return self.path / "site.bash"

    @property
    def shards(self) -> Path:
        """Token shards."""
        return self.path / "shards"

    @property
    def run(self) -> Path:
        """The run folder, with its variants."""
        return self.path / "run"

    @property
    def model(self) -> Path:
        """Hugging Face folder of the run."""
        return self.path / "model"

    @property
    def merged(self) -> Path:
        """Hugging Face folder of the recipe's merge."""
        return self.path / "merged"

    @property
    def evaluation(self) -> Path:
        """Held-out losses of the models by language."""
        return self.path / "evaluation"

    @property
    def logs(self) -> Path:
        """Output of the jobs, and journals of their starts."""
        return self.path / "logs"

    @property
    def comment(self) -> str:
        """Slurm comment of all jobs, by which the queue is searched."""
        return f"mmbert:{hashlib.sha256(bytes(self.path)).hexdigest()[:16]}"

    def variant(self, name: str) -> Path:
        """Return the run folder of a variant."""
        return self.run / "variants" / name

    def journal(self, step: StepName) -> Path:
        """Return the journal of a step's starts; training has its own in the run folder."""
        return self.logs / f"{step}.starts.jsonl"


class JobRecord(BaseModel):
    """A submitted job, or array of jobs."""

    model_config = ConfigDict(frozen=True)

    step: StepName
    job: str
    unix_time: float
    tasks: Mapping[int, str] = {}
    """Variant of each task of an array."""

    def log(self, folder: ChainFolder, task: int | None = None) -> Path:
        """Return the file with the output of the job or of a task of it."""
        suffix = "" if task is None else f"_{task}"
        return folder.logs / f"{self.step}-{self.job}{suffix}.log"


class ChainRecord(BaseModel):
    """What was submitted for an output folder."""

    model_config = ConfigDict(frozen=True)

    recipe: str
    """Recipe as it was given."""
    input: str
    user: str
    """Who submitted last."""
    jobs: tuple[JobRecord, ...] = ()
    """All jobs of all submissions, oldest first."""

    def latest(self, step: StepName) -> JobRecord | None:
        """Return the job of a step that was submitted last."""
        return next((job for job in reversed(self.jobs) if job.step == step), None)

    def write(self, folder: ChainFolder) -> None:
        """Write chain.json."""
        write_json(folder.record, {"format": FORMAT, **self.model_dump(mode="json")})


def read_record(folder: ChainFolder) -> ChainRecord | None:
    """Read chain.json; None if there is none. Raises ResumeError if it is not one."""
    if not folder.record.is_file():
        return None
    try:
        values = json.loads(folder.record.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise ValueError("it has another format")
        return ChainRecord.model_validate(values)
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResumeError(
            f"{folder.record} cannot be read: {str(error).splitlines()[0]}",
            remedy="restore it from a copy, or remove it: jobs in the queue are then not known",
        ) from error
