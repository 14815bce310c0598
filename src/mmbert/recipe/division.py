"""What tensor and data parallelism must divide, so that every rank has the same share."""

from mmbert.errors import UserError
from mmbert.recipe.sections import BatchSettings, ParallelSettings


def not_divided_by_tensor(
    tensor: int, *, num_attention_heads: int, intermediate_size: int, row_tokens: int | None
) -> tuple[str, int] | None:
    """The first size that a tensor group of `tensor` ranks has no equal shares of.

    Args:
        row_tokens: None where the tokens of a row stay together.

    Returns:
        The size's key in the recipe, and the size; None: all divide.
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
    """Whether the virtual data streams fall evenly to `data_ranks` ranks."""
    return batch.quantum % data_ranks == 0


def check_data_ranks(
    batch: BatchSettings, parallel: ParallelSettings, world_size: int, *, unit: str = "processes"
) -> None:
    """UserError unless the data ranks of `world_size` ranks (called `unit`) divide the quantum."""
    data_ranks = world_size // parallel.tensor
    if divided_by_data(batch, data_ranks):
        return
    fitting = [str(n) for n in range(1, batch.quantum + 1) if divided_by_data(batch, n)]
    raise UserError(
        f"{world_size} {unit} with parallel.tensor {parallel.tensor} make {data_ranks} data ranks,"
        f" which do not divide batch.quantum {batch.quantum}",
        remedy=f"choose data ranks that divide it ({', '.join(fitting)}), or set batch.quantum to a"
        f" multiple of {data_ranks} (batch.rows, batch.growth.from_rows and the phases' rows must"
        " be multiples of it)",
    )
