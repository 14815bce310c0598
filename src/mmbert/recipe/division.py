"""Divisibility checks for tensor and data parallelism, so that all ranks hold equal parts."""

from mmbert.errors import LauncherError
from mmbert.recipe.sections import BatchSettings, ParallelSettings


def not_divided_by_tensor(
    tensor: int, *, num_attention_heads: int, intermediate_size: int, row_tokens: int | None
) -> tuple[str, int] | None:
    """Find the first size that is not divisible by the tensor-parallel size.

    Args:
        row_tokens: tokens of a row; None if they are not split.

    Returns:
        The recipe key and value of the size; None if all are divisible.
    """
    for key, value in (
        ("model.num_attention_heads", num_attention_heads),
        ("model.intermediate_size", intermediate_size),
        ("batch.row_tokens", row_tokens),
    ):
        if value is not None and value % tensor:
            return key, value
    return None


def divided_by_data(batch: BatchSettings, data_ranks: int) -> bool:
    """Return whether the virtual data streams divide evenly among `data_ranks` ranks."""
    return batch.quantum % data_ranks == 0


def check_data_ranks(
    batch: BatchSettings, parallel: ParallelSettings, world_size: int, *, unit: str = "processes"
) -> None:
    """Raise LauncherError unless `world_size` is a multiple of the tensor-parallel size, and the
    data-parallel size divides the number of data streams. It names the numbers that fit.

    Args:
        world_size: number of ranks, called `unit` in the message.
    """
    data_ranks, rest = divmod(world_size, parallel.tensor)
    if not rest and divided_by_data(batch, data_ranks):
        return
    sizes = [n for n in range(1, batch.quantum + 1) if divided_by_data(batch, n)]
    fitting = ", ".join(str(n * parallel.tensor) for n in sizes)
    if rest:
        raise LauncherError(
            f"parallel.tensor ({parallel.tensor}) does not divide the number of {unit} "
            f"({world_size})",
            remedy=f"start with one of {fitting} {unit}, or change parallel.tensor",
        )
    raise LauncherError(
        f"batch.quantum ({batch.quantum}) must be divisible by the data-parallel size ({data_ranks}"
        f" = {world_size} {unit} / parallel.tensor {parallel.tensor})",
        remedy=f"start with one of {fitting} {unit}, or set batch.quantum to a multiple of"
        f" {data_ranks} (batch.rows, batch.growth.from_rows and the rows of phases must be"
        " multiples of it)",
    )
