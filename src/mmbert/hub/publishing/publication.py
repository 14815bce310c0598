"""publication.json of a revision: the checkpoint it was made from, and how it was checked."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mmbert.checkpoint.format import INDEX_NAME
from mmbert.errors import OutputError
from mmbert.files import checksum_file
from mmbert.hub.for_libraries.int8_graph import VectorComparison
from mmbert.hub.verification import Difference
from mmbert.recipe import Objective

PUBLICATION_NAME = "publication.json"


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class CheckpointLosses(_Model):
    """Losses at a checkpoint, in nats per masked token, as the run's log has them.

    The training loss of a causal phase is per next token.
    """

    training: float | None = None
    """Mean over the last logged interval up to the checkpoint."""
    held_out_step: int | None = None
    """Step of the last measurement up to the checkpoint, of which the others are."""
    held_out: float | None = None
    tiers: dict[str, float] = {}
    languages: dict[str, float] = {}
    unigram: float | None = None
    """Of a unigram model on the same tokens."""


class Publication(_Model):
    """Contents of publication.json."""

    format: int = 1
    writer: str
    recipe: str
    """Name of the run's recipe."""
    variant: str | None = None
    """Name of the recipe's variant; None of the main run."""
    step: int
    objective: Objective = "masked"
    """Of the phase of the checkpoint."""
    checkpoint: str
    """XXH3-128 of the checkpoint's index.json, which has the checksums of its files."""
    logits: Difference
    """Of transformers, against the training program."""
    hidden_states: Difference | None
    """Of the float32 graph; None if it was not asked for."""
    int8: VectorComparison | None
    """None if it was not asked for, or could not be checked."""
    left_out: dict[str, str]
    """File that is not published → why."""
    losses: CheckpointLosses


def identity_of(checkpoint: Path) -> str:
    """Return the checksum by which a revision knows its checkpoint."""
    return checksum_file(checkpoint / INDEX_NAME)


def parse_publication(content: bytes, where: str) -> Publication:
    """Parse publication.json; `where` names it in the error. Raises OutputError if damaged."""
    try:
        return Publication.model_validate_json(content)
    except ValidationError as error:
        raise OutputError(
            f"{where} cannot be read: {str(error).splitlines()[0]}",
            remedy="remove that revision, and run the same command again",
        ) from error
