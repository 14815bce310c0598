"""Stages of a decay: their commands, which of them are done, and how they run."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console

from mmbert.decay.comparison import compare, is_compared, read_comparison, write_comparison
from mmbert.decay.comparison_table import render
from mmbert.decay.filled_recipe import check_length, first_phase, sources_of
from mmbert.decay.importing import import_start
from mmbert.decay.layout import DecayFolder
from mmbert.decay.merging import merge_command, write_model
from mmbert.decay.planning import print_cost, write_recipe
from mmbert.decay.preprocessing import preprocessing_options, run_preprocessing
from mmbert.decay.request import DecayRequest
from mmbert.launching import RunIncompleteError, run_training
from mmbert.ownership import Unowned

STAGES = ("import", "preprocess", "plan", "train", "model", "evaluate")


@dataclass(frozen=True)
class Settings:
    """Arguments that do not change the result.

    Attributes:
        launcher: command that launches a training run, in words.
        workers: processes of the preprocessing; None: its default.
        gpus, gpu: hardware of the cost estimate.
        documents: held-out documents per language in the comparison.
        all_languages: show every language instead of the extremes.
    """

    launcher: tuple[str, ...]
    workers: int | None = None
    gpus: int = 1
    gpu: str = "h100"
    documents: int = 32
    all_languages: bool = False


@dataclass(frozen=True)
class Stage:
    """A stage: the public command that it amounts to, whether it is done, and its execution."""

    name: str
    command: Callable[[], tuple[str, ...]]
    done: Callable[[], bool]
    run: Callable[[], None]

    def describe(self, number: int) -> Iterator[str]:
        """Yield the stage in two lines: number, name and state; the command."""
        yield f"{number}. {self.name}: {'done' if self.done() else 'to do'}"
        yield f"   {shlex.join(self.command())}"


def decay_stages(
    request: DecayRequest, folder: DecayFolder, settings: Settings, console: Console
) -> list[Stage]:
    """Return the stages in order.

    Raises:
        RecipeError: the recipe is invalid, has no place for the inputs, or is too short.
    """
    sources = sources_of(request)
    check_length(request)

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    stages = [
        Stage(
            "import",
            lambda: _import_command(request, folder),
            folder.imported.is_dir,
            lambda: import_start(request, folder, say),
        ),
    ]
    for source, old in ((sources.new, False), (sources.old, True)):
        if source is not None:
            stages.append(_preprocessing(request, folder, settings, source, old=old))

    def plan() -> None:
        write_recipe(request, folder, say)
        print_cost(folder, settings.gpus, settings.gpu, console)

    def train() -> None:
        say(f"training; log: {folder.log}")
        run_training("the training", _train_command(folder, settings), folder.run, folder.log)
        if folder.final_checkpoint() is None:
            raise RunIncompleteError(
                f"the training ended with status 0 before its last step; see {folder.log}", 1
            )

    def evaluate() -> None:
        write_comparison(compare(request, folder, settings.documents, say), request, folder)

    return [
        *stages,
        Stage("plan", lambda: _plan_command(folder, settings), folder.recipe.is_file, plan),
        Stage(
            "train",
            lambda: _train_command(folder, settings),
            lambda: folder.final_checkpoint() is not None,
            train,
        ),
        Stage(
            "model",
            lambda: merge_command(request, folder),
            folder.model.is_dir,
            lambda: write_model(request, folder, say),
        ),
        Stage(
            "evaluate",
            lambda: ("mmbert", "evaluate", str(folder.model), "--data", str(folder.shards)),
            lambda: is_compared(folder),
            evaluate,
        ),
    ]


def run_stages(
    stages: Sequence[Stage], until: str | None, console: Console, owner: Unowned
) -> None:
    """Run the stages that are not done, up to and including the stage `until`.

    Raises:
        OwnershipLostError: another process has taken the folder over; checked before each stage.
    """
    for number, stage in enumerate(stages, 1):
        state = "done" if (done := stage.done()) else shlex.join(stage.command())
        title = f"[{number}/{len(stages)}] {stage.name}: {state}"
        console.print(title, markup=False, highlight=False, soft_wrap=True)
        if not done:
            owner.check()
            stage.run()
        following = stages[number].name if number < len(stages) else None
        if stage.name == until and following != until:
            break


def show_result(folder: DecayFolder, console: Console, *, all_languages: bool) -> None:
    """Print the table and the places of the results."""
    console.print(render(read_comparison(folder), all_languages=all_languages))
    console.print(f"model: {folder.model}\ntable: {folder.table}", soft_wrap=True, highlight=False)


def _import_command(request: DecayRequest, folder: DecayFolder) -> tuple[str, ...]:
    if request.state is None:
        return ("mmbert", "import", request.model, str(folder.imported))
    return (
        *("mmbert", "import", request.state, str(folder.imported)),
        *("--phase", first_phase(request), "--tokens", "0", "--tokenizer-files", request.model),
    )


def _preprocessing(
    request: DecayRequest, folder: DecayFolder, settings: Settings, source: str, *, old: bool
) -> Stage:
    def options() -> tuple[str, ...]:
        return preprocessing_options(request, folder, old=old)

    return Stage(
        "preprocess",
        lambda: ("python", "-m", "mmbert_prep", *options()),
        lambda: folder.preprocessed(source),
        lambda: run_preprocessing(options(), settings.workers),
    )


def _plan_command(folder: DecayFolder, settings: Settings) -> tuple[str, ...]:
    return (
        *("mmbert", "plan", str(folder.recipe), "--data", str(folder.shards)),
        *("--gpus", str(settings.gpus), "--gpu", settings.gpu),
    )


def _train_command(folder: DecayFolder, settings: Settings) -> tuple[str, ...]:
    return (
        *settings.launcher,
        *("--recipe", str(folder.recipe)),
        *("--data", str(folder.shards)),
        *("--output", str(folder.run)),
    )
