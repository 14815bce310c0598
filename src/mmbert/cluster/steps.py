"""The steps of a chain: which of them are done, their scripts, and what runs inside the jobs."""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mmbert.checkpoint.format import Index
from mmbert.checkpoint.store import list_checkpoints
from mmbert.cluster.chain import ChainFolder
from mmbert.cluster.grid import ranks_per_node
from mmbert.cluster.site import JobValues, Site, StepName
from mmbert.cluster.site_script import container_words, srun_options
from mmbert.errors import OutputError
from mmbert.recipe import Recipe
from mmbert.schedule import training_plan
from mmbert.training.run_config import variant_recipe


@dataclass(frozen=True)
class Step:
    """A step of a chain."""

    name: StepName
    arguments: tuple[str, ...]
    """Arguments of slurm/NAME.sbatch."""
    done: bool
    values: JobValues
    inside: tuple[str, ...] = ()
    """Command lines that the job runs, quoted for a shell in the job."""
    tasks: tuple[tuple[int, str], ...] = ()
    """Index and variant of each task of an array that is to run."""

    @property
    def sbatch_options(self) -> tuple[str, ...]:
        """Options of sbatch for the resources."""
        values = self.values
        # GPUs have one task each, as the scripts count them.
        tasks = None if values.gpus_per_node else values.tasks_per_node
        options = {
            "array": ",".join(str(index) for index, _ in self.tasks) or None,
            "partition": values.partition,
            "account": values.account,
            "qos": values.qos,
            "reservation": values.reservation,
            "time": values.time,
            "nodes": values.nodes or 1,
            "gpus-per-node": values.gpus_per_node or None,
            "ntasks-per-node": tasks,
            "cpus-per-task": values.cpus_per_task,
        }
        given = (f"--{name}={value}" for name, value in options.items() if value is not None)
        return (*given, *values.sbatch)


def chain_steps(
    recipe: Recipe,
    text: str,
    folder: ChainFolder,
    site: Site,
    *,
    preprocess: Sequence[str] = (),
    python: str,
) -> list[Step]:
    """Return the steps of a chain in order.

    Args:
        text: text to preprocess; with several sources in the recipe, a folder with one of each.
        preprocess: further options of the preprocessing.
        python: interpreter of the jobs, outside a container.

    Raises:
        OutputError: a model is there before the training that it would be of has ended.
    """
    inside = _Inside(site, python)
    of_variants = tuple(variant.name for variant in recipe.variants)
    left = tuple(
        (index, name) for index, name in enumerate(of_variants) if not trained(folder, recipe, name)
    )
    pretrained = trained(folder, recipe)
    models = {"model": folder.model} | ({"merged": folder.merged} if recipe.merge else {})
    unwritten = [name for name, path in models.items() if not path.is_dir()]
    if (not pretrained or left) and len(unwritten) < len(models):
        there = next(path for path in models.values() if path.is_dir())
        raise OutputError(
            f"{there} exists, but the training in {folder.run} is not finished under this recipe",
            remedy="remove the model to train on and write it anew, or give another OUT",
        )
    unmeasured = [
        name
        for name in models
        if name in unwritten or not (folder.evaluation / f"{name}.tsv").is_file()
    ]
    several = len(recipe.data.sources) > 1
    texts = (
        *(("--sources-in", text) if several else ("--input", text)),
        *("--output", str(folder.shards), "--recipe", str(folder.recipe), *preprocess),
    )
    train = (str(folder.recipe), str(folder.shards), str(folder.run))
    write = (str(folder.run), str(folder.model), *([str(folder.merged)] if recipe.merge else []))
    measure = (
        *(str(folder.shards), str(folder.evaluation)),
        *(str(models[name]) for name in unmeasured or models),
    )
    finished = pretrained and not left and not unwritten
    values = {name: site.of_step(name) for name in _NAMES}
    steps = [
        Step(
            "preprocess",
            texts,
            preprocessed(folder, recipe) or (finished and not unmeasured),
            values["preprocess"],
            tuple(inside.preprocess(values["preprocess"], texts)),
        ),
        Step(
            "pretrain",
            train,
            pretrained,
            values["pretrain"],
            tuple(inside.train(values["pretrain"], train)),
        ),
        Step(
            "decay",
            (*train, *of_variants),
            not left,
            values["decay"],
            tuple(
                line
                for _, name in left
                for line in inside.train(values["decay"], (*train, "--variant", name))
            ),
            left,
        ),
        Step(
            "merge",
            write,
            not unwritten,
            values["merge"],
            tuple(inside.write(values["merge"], folder, unwritten)),
        ),
        Step(
            "evaluate",
            measure,
            not unmeasured,
            values["evaluate"],
            tuple(inside.measure(values["evaluate"], measure)),
        ),
    ]
    return [step for step in steps if step.name != "decay" or of_variants]


def preprocessed(folder: ChainFolder, recipe: Recipe) -> bool:
    """Return whether the shards of all sources of the recipe are complete."""
    names = [str(source.path or source.name) for source in recipe.data.sources]
    return all((folder.shards / name / "summary.json").is_file() for name in names)


def trained(folder: ChainFolder, recipe: Recipe, variant: str | None = None) -> bool:
    """Return whether the run, or a variant of it, has the checkpoint of its last step."""
    if variant is not None:
        recipe = variant_recipe(recipe, variant)[0]
    run = folder.run if variant is None else folder.variant(variant)
    checkpoints = list_checkpoints(run / "checkpoints")
    return bool(checkpoints) and (
        Index.read(checkpoints[-1]).state.step >= training_plan(recipe).steps
    )


_NAMES: tuple[StepName, ...] = ("preprocess", "pretrain", "decay", "merge", "evaluate")


@dataclass(frozen=True)
class _Inside:
    """Command lines of srun, as the batch scripts build them."""

    site: Site
    python: str

    def train(self, values: JobValues, arguments: tuple[str, ...]) -> Iterator[str]:
        recipe, shards, run, *more = arguments
        nodes, per_node = values.nodes or 1, ranks_per_node(values)
        tasks = str(per_node) if per_node else "${SLURM_GPUS_ON_NODE:-1}"
        cpus = values.cpus_per_task or f'"$((SLURM_CPUS_ON_NODE / {tasks}))"'
        each = str(per_node) if per_node else f'"{tasks}"'
        yield self._srun(
            f"--nodes={nodes}",
            f"--ntasks={nodes * per_node}" if per_node else f'--ntasks="$(({nodes} * {tasks}))"',
            f"--ntasks-per-node={each} --cpus-per-task={cpus} --mpi=none --label",
            "--kill-on-bad-exit=0 --wait=60",
            *([f"--gpus-per-node={values.gpus_per_node}"] if values.gpus_per_node else []),
            words=("mmbert.pretrain", "--recipe", recipe, "--data", shards, "--output", run, *more),
        )

    def preprocess(self, values: JobValues, arguments: tuple[str, ...]) -> Iterator[str]:
        nodes = values.nodes or 1
        tasks = str(values.tasks_per_node or '"$SLURM_CPUS_ON_NODE"')
        workers = f'"$(({nodes} * SLURM_CPUS_ON_NODE))"'
        if values.tasks_per_node:
            workers = str(nodes * values.tasks_per_node)
        yield self._srun(
            f"--nodes={nodes} --ntasks={workers} --ntasks-per-node={tasks} --cpus-per-task=1",
            "--mpi=none --kill-on-bad-exit=1",
            words=("mmbert_prep", *arguments),
        )

    def write(
        self, values: JobValues, folder: ChainFolder, unwritten: Sequence[str]
    ) -> Iterator[str]:
        commands = {
            "model": ("export", str(folder.run), str(folder.model)),
            "merged": ("merge", str(folder.run), "--output", str(folder.merged)),
        }
        for name in unwritten:
            yield self._one_task(values, ("mmbert.cli", *commands[name]))

    def measure(self, values: JobValues, arguments: tuple[str, ...]) -> Iterator[str]:
        shards, out, *models = arguments
        for model in models:
            report = f"{out}/{model.rpartition('/')[2]}.tsv"
            command = ("mmbert.cli", "evaluate", model, "--data", shards, "--report", report)
            yield self._one_task(values, command)

    def _one_task(self, values: JobValues, words: tuple[str, ...]) -> str:
        return self._srun(
            '--nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_ON_NODE" --mpi=none',
            *([f"--gpus-per-node={values.gpus_per_node}"] if values.gpus_per_node else []),
            words=words,
        )

    def _srun(self, *options: str, words: tuple[str, ...]) -> str:
        container = self.site.container
        python = self.python if container is None else container.python
        after = (*container_words(container), python, "-P", "-m", *words)
        site = srun_options(container)
        return " ".join(
            ["srun", *options, *([shlex.join(site)] if site else []), shlex.join(after)]
        )
