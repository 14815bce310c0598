"""Publication of a run: what is to be done, and doing it, one revision after the other."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.listing import list_checkpoints
from mmbert.errors import ArgumentError, CheckpointError, ModelError, OutputError
from mmbert.hub.for_libraries.int8_graph import TEXTS
from mmbert.hub.for_libraries.onnx_graphs import require_onnx_packages
from mmbert.hub.publishing.held_out_documents import held_out_documents
from mmbert.hub.publishing.losses import read_losses
from mmbert.hub.publishing.place import MAIN, Place
from mmbert.hub.publishing.publication import Publication, identity_of
from mmbert.hub.publishing.revision import Contents, write_revision
from mmbert.recipe import parse_recipe
from mmbert.training.run_folder import variant_of

Say = Callable[[str], None]


@dataclass(frozen=True)
class PublishOptions:
    """What a publication holds."""

    data: Path | None
    """Shards with the held-out text that an int8 graph is checked on."""
    onnx: bool = True
    int8: bool = True
    license: str | None = None
    allow_causal: bool = False
    """Whether checkpoints of causal phases are published too."""

    @property
    def needs_data(self) -> bool:
        """Whether held-out text is read."""
        return self.onnx and self.int8


@dataclass(frozen=True)
class PlannedRevision:
    """A kept checkpoint of the run, and whether it is published."""

    checkpoint: Path
    step: int
    tokens: int
    phase: str
    identity: str
    published: bool

    @property
    def name(self) -> str:
        """Name of the revision."""
        return self.checkpoint.name


@dataclass(frozen=True)
class Plan:
    """The revisions of a run, oldest first, and what goes into those that are not published."""

    revisions: tuple[PlannedRevision, ...]
    contents: Contents
    causal: tuple[str, ...] = ()
    """Checkpoints of causal phases, which are left out."""

    @property
    def missing(self) -> tuple[PlannedRevision, ...]:
        """The revisions to publish."""
        return tuple(one for one in self.revisions if not one.published)


def plan_publication(run: Path, place: Place, options: PublishOptions) -> Plan:
    """Find what is to be published of `run`, and read the text for its checks. Writes nothing.

    Raises:
        UserError: a package, the shards or the run's checkpoints are missing, or the place is out
            of reach or holds revisions of another run.
    """
    if options.onnx:
        require_onnx_packages()
    checkpoints = list_checkpoints(run / "checkpoints")
    if not checkpoints:
        problem = "has no checkpoint" if run.is_dir() else "does not exist"
        raise CheckpointError(
            f"{run} {problem}", remedy="give the folder of a run that has saved a checkpoint"
        )
    if options.needs_data and options.data is None:
        raise ArgumentError(
            f"int8 graphs are checked on {TEXTS} held-out texts, and a run does not know where its"
            " shards are",
            remedy="give --data SHARDS, or leave these graphs out with --without-int8",
        )
    left_out = [] if options.allow_causal else [one for one in checkpoints if _is_causal(one)]
    if left_out == checkpoints:
        raise ModelError(
            f"{run} has only checkpoints of causal phases, which do not predict masked tokens",
            remedy="train a masked phase after them; or give --allow-causal, with which config.json"
            " and model card say so",
        )
    checkpoints = [one for one in checkpoints if one not in left_out]
    published = place.published()
    revisions = tuple(_planned(path, place, published) for path in checkpoints)
    _refuse_other_runs(run, checkpoints[-1], place, published)
    documents = None
    if options.needs_data and options.data is not None:
        documents = held_out_documents(options.data, run / "tokenizer", TEXTS)
    contents = Contents(
        read_losses(run), options.onnx, documents, options.license, options.allow_causal
    )
    return Plan(revisions, contents, tuple(one.name for one in left_out))


def _is_causal(checkpoint: Path) -> bool:
    state = Index.read(checkpoint).state
    recipe = parse_recipe(state.recipe, origin=f"the recipe in {checkpoint}")
    return any(phase.name == state.phase and phase.causal for phase in recipe.phases)


def _planned(path: Path, place: Place, published: dict[str, Publication]) -> PlannedRevision:
    index, identity = Index.read(path), identity_of(path)
    there = published.get(path.name)
    if there is not None and there.checkpoint != identity:
        raise OutputError(
            f"{path.name} in {place} is of another checkpoint than {path}",
            remedy="publish to another place, or remove that revision there",
        )
    state = index.state
    return PlannedRevision(
        path, state.step, state.tokens, state.phase, identity, published=there is not None
    )


def _refuse_other_runs(
    run: Path, checkpoint: Path, place: Place, published: dict[str, Publication]
) -> None:
    recipe = parse_recipe(Index.read(checkpoint).state.recipe, origin=f"the recipe in {checkpoint}")
    own = _described(recipe.name, variant_of(run))
    for name, there in published.items():
        other = _described(there.recipe, there.variant)
        if other != own:
            raise OutputError(
                f"{name} in {place} is of the recipe {other}, and {run} of {own}",
                remedy="publish each run, and each variant, to a place of its own",
            )


def _described(recipe: str, variant: str | None) -> str:
    return recipe if variant is None else f"{recipe}, variant {variant}"


def publish(plan: Plan, place: Place, say: Say) -> None:
    """Publish the revisions of `plan` that are missing, oldest first; `main` becomes the newest.

    Interrupted at any point, the same call goes on: what is published is whole, and stays.

    Args:
        say: is told of every revision, and of what was left out.

    Raises:
        UserError: a checkpoint is damaged, the place cannot be written, or no space.
        RuntimeError: a model or graph computes something else than the training program: a bug.
    """
    for name in plan.causal:
        say(f"{name}: is not published, because it is of a causal phase (see --allow-causal)")
    with place:
        for number, revision in enumerate(plan.missing, 1):
            if place.finish_interrupted(revision.name, revision.identity):
                say(f"{revision.name}: was uploaded before, and has its name now")
                continue
            say(f"{revision.name}: export and checks, {number} of {len(plan.missing)}")

            def build(folder: Path, revision: PlannedRevision = revision) -> Publication:
                return write_revision(folder, revision.checkpoint, plan.contents, say)

            done = place.publish(revision.name, revision.step, build)
            say(f"{revision.name}: {_checks(done)}")
            for file, why in done.left_out.items():
                say(f"{revision.name}: {file} is not published: {why}")
        newest = place.set_main()
    count = len(plan.revisions)
    say(f"{place}: {count} revision{'s' if count > 1 else ''} of the run; {MAIN} is {newest}")


def _checks(done: Publication) -> str:
    parts = [f"logits match transformers (maximum difference {done.logits.max_difference:.1e})"]
    if done.hidden_states is not None:
        parts.append(f"ONNX within {done.hidden_states.max_difference:.1e}")
    if done.int8 is not None and not done.left_out:
        parts.append(f"int8 mean cosine {done.int8.mean_cosine:.4f} over {done.int8.texts} texts")
    return ", ".join(parts)
