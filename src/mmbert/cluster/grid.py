"""Nodes and ranks of the training, held against the recipe before anything is submitted."""

from collections.abc import Iterator
from pathlib import Path

from mmbert.cluster.site import JobValues, Site, StepName
from mmbert.errors import LauncherError
from mmbert.parallel.process_grid import check_grid
from mmbert.planner import estimate
from mmbert.recipe import Recipe
from mmbert.recipe.division import divided_by_data
from mmbert.schedule import training_plan
from mmbert.training.metrics.loggers.console_logger import format_count
from mmbert.training.run_config import variant_recipe


def ranks_per_node(values: JobValues) -> int | None:
    """Return the ranks on a node; None if Slurm decides how many GPUs the job has."""
    return (
        values.gpus_per_node or values.tasks_per_node or (1 if values.gpus_per_node == 0 else None)
    )


def check_training(recipe: Recipe, site: Site, shards: Path | None) -> Iterator[str]:
    """Check that the recipe trains on the site's nodes; yield the plan in lines.

    Args:
        shards: finished shards for the plan, if there are any.

    Raises:
        UserError: a variant is invalid, or nodes × ranks do not fit; the sizes that fit are named.
    """
    recipes = {"run": recipe} | {
        f"variant {variant.name}": variant_recipe(recipe, variant.name)[0]
        for variant in recipe.variants
    }
    for name, one in recipes.items():
        plan = training_plan(one)
        yield f"{name}: {plan.steps:,} steps, {format_count(plan.tokens)} tokens in all phases"
    steps: tuple[StepName, ...] = ("pretrain", "decay") if recipe.variants else ("pretrain",)
    for step in steps:
        values = site.of_step(step)
        nodes, per_node = values.nodes or 1, ranks_per_node(values)
        if per_node is None:
            yield (
                f"{step}: {nodes} node(s); not checked against batch.quantum {recipe.batch.quantum}"
                ", because gpus_per_node is not given (0 on CPUs)"
            )
            continue
        for one in recipes.values():
            _check(one, nodes, per_node)
        data = nodes * per_node // recipe.parallel.tensor
        yield (
            f"{step}: {nodes} node(s) × {per_node} = {nodes * per_node} ranks: {data} data × "
            f"{recipe.parallel.tensor} tensor, batch.quantum {recipe.batch.quantum}"
        )
        if site.gpu is not None and values.gpus_per_node and step == "pretrain":
            found = estimate(recipe, gpus=nodes * per_node, gpu=site.gpu, shards=shards)
            yield (
                f"{step}: about {found.seconds / 3600:,.1f} hours on {found.gpus} {site.gpu} at an "
                f"assumed MFU of {found.mfu:.0%} (see `mmbert plan`)"
            )


def _check(recipe: Recipe, nodes: int, per_node: int) -> None:
    """Raise LauncherError, with the numbers of nodes that fit, unless the grid fits the recipe."""
    if _fits(recipe, nodes * per_node):
        return
    tensor, quantum = recipe.parallel.tensor, recipe.batch.quantum
    fitting = [n for n in range(1, quantum * tensor // per_node + 1) if _fits(recipe, n * per_node)]
    remedy = (
        f"give {', '.join(map(str, fitting))} node(s) (`nodes` in the site file, or --nodes), or "
        if fitting
        else ""
    )
    data = -(-nodes * per_node // tensor)
    raise LauncherError(
        f"{nodes} node(s) × {per_node} = {nodes * per_node} ranks do not fit the recipe: "
        f"parallel.tensor {tensor} must divide them, and the data ranks must divide batch.quantum "
        f"{quantum}",
        remedy=f"{remedy}set batch.quantum to a multiple of {data} (batch.rows, "
        "batch.growth.from_rows and the rows of phases must be multiples of it)",
    )


def _fits(recipe: Recipe, world: int) -> bool:
    try:
        check_grid(world_size=world, tensor_parallel=recipe.parallel.tensor)
    except LauncherError:
        return False
    return divided_by_data(recipe.batch, world // recipe.parallel.tensor)
