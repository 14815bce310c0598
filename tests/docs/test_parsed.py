"""Commands of blocks marked `parsed`, and the checks that find wrong ones."""

import click
import pytest

from mmbert.errors import UserError
from tests.docs.blocks import Block, blocks, pages
from tests.docs.commands import UnknownCommandError, check

PARSED = [block for page in pages() for block in blocks(page) if block.kind == "parsed"]


@pytest.mark.parametrize("block", PARSED, ids=str)
def test_the_programs_parse_the_commands(block: Block) -> None:
    assert check(block.text) > 0


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ("mmbert plam mmbert-base", UnknownCommandError),
        ("mmbert plan mmbert-base --gpuz 8", click.UsageError),
        ("mmbert plan mmbert-bass", UserError),
        ("mmbert plan mmbert-base batch.rowz=3", UserError),
        ("mmbert plan mmbert-base batch.rows=97", UserError),
        ("mmbert export my_run", click.UsageError),
        ("deepspeed launch/pretrain.py --recipe demo --data d", click.UsageError),
        (
            "deepspeed launch/pretrain.py --recipe demo --data d --output r --variant x",
            AssertionError,
        ),
        ("deepspeed --num_gpu 2 --module mmbert.pretrein --recipe demo", AssertionError),
        ("torchrun launch/pretrain.py --recipe demo --data d --outptu r", click.UsageError),
        ("python launch/preproces.py --input a --output b", AssertionError),
        ("python -m mmbert_prep --input a --output b --heldout-percentage 3", click.UsageError),
        ("make preproces INPUT=a OUTPUT=b", AssertionError),
        ("make preprocess INPUT=a OUTPUT=b WORKER=2", AssertionError),
        ("make preprocess INPUT=a OUTPUT=b ARGS='--no-such'", click.UsageError),
        ("sbatch slurm/pretrain.sbatch demo shards run batch.rowz=1", UserError),
        ("python -m tests.benchmarks.bench_checkpoint --parameter 3", AssertionError),
        ("pip install '.[gpus]'", AssertionError),
        ("curl example.org", UnknownCommandError),
    ],
)
def test_wrong_commands_are_found(wrong: str, error: type[Exception]) -> None:
    with pytest.raises(_any_click(error)):
        check(wrong)


def _any_click(error: type[Exception]) -> type[Exception] | tuple[type[Exception], ...]:
    """Newer releases of typer bundle their own copy of click."""
    import typer

    return (error, typer.BadParameter.__mro__[1]) if error is click.UsageError else error
