"""Files and folders in the output folder of a decay."""

from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import CheckpointStore
from mmbert.recipe import parse_recipe
from mmbert.schedule import training_plan


@dataclass(frozen=True)
class DecayFolder:
    """The output folder, as an absolute path."""

    path: Path

    @property
    def record(self) -> Path:
        """What was asked for and, at the end, the losses."""
        return self.path / "decay.json"

    @property
    def table(self) -> Path:
        """Losses by language."""
        return self.path / "decay.tsv"

    @property
    def commits(self) -> Path:
        """Commit of each model that was given by its name."""
        return self.path / "commits.json"

    @property
    def imported(self) -> Path:
        """Model or training state that the run starts from."""
        return self.path / "imported"

    @property
    def shards(self) -> Path:
        """Token shards."""
        return self.path / "shards"

    @property
    def recipe(self) -> Path:
        """Complete recipe of the run."""
        return self.path / "recipe.yaml"

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.path / "run"

    @property
    def log(self) -> Path:
        """Output of all starts of the training."""
        return self.path / "run.log"

    @property
    def model(self) -> Path:
        """The resulting Hugging Face folder."""
        return self.path / "model"

    def final_checkpoint(self) -> Path | None:
        """Return the checkpoint of the run's last step; None if it is unfinished."""
        checkpoints = CheckpointStore(self.run / "checkpoints").list()
        if not checkpoints:
            return None
        state = Index.read(checkpoints[-1]).state
        last = training_plan(parse_recipe(state.recipe)).steps
        return checkpoints[-1] if state.step == last else None

    def preprocessed(self, source: str) -> bool:
        """Return whether the shards of a source are complete."""
        return (self.shards / source / "summary.json").is_file()
