"""Checkpoints of any split read back in any range of another; damage is detected."""

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor

from mmbert.checkpoint.format import CheckpointDamagedError, Index, RunState
from mmbert.checkpoint.reader import CheckpointReader, read_parameters, verify_checkpoint
from mmbert.checkpoint.staging import HostStaging
from mmbert.checkpoint.writer import SaveJob, Writer
from mmbert.errors import UserError
from mmbert.parallel.parameter_spec import InitialDistribution, ParameterSpec, local_slice
from mmbert.parallel.zero_fragment import ParameterFragment
from tests.support.step_weights import STATES

ONES = InitialDistribution("ones")
STATE = RunState(step=7, tokens=700, phase="first", recipe="name: test\n", data={"streams": [1, 2]})


def full_tensor(spec: ParameterSpec, state: str) -> Tensor:
    """Return values that identify their position and state."""
    size = math.prod(spec.full_shape)
    return (torch.arange(size) + 10_000.0 * STATES.index(state)).view(spec.full_shape)


def write_checkpoint(
    folder: Path, specs: list[ParameterSpec], *, tensor: int, cuts: list[list[float]]
) -> Path:
    """Write a checkpoint as from `tensor` × (len(cuts) + 1) ranks.

    `cuts` are the ends of ZeRO's partitions as fractions of each flattened parameter.
    """
    path = folder / "step-00000007"
    partial = folder / ".partial-test"
    partial.mkdir(parents=True)
    data = len(cuts) + 1
    writers = []
    for rank in range(tensor * data):
        tensor_rank, data_rank = rank % tensor, rank // tensor
        job = SaveJob(
            path=path,
            partial=partial,
            rank=rank,
            world_size=tensor * data,
            writer="test",
            number=0,
            permanent=False,
            state=STATE,
            optimizer_steps=7,
            tensor=tensor,
            data=data,
            zero_stage=3,
            commit_timeout=10,
        )
        staging = HostStaging()
        fragments = fragments_of(specs, tensor_rank, tensor, data_rank, cuts)
        pieces = staging.stage(fragments, torch.device("cpu"))
        writers.append(Writer(job, staging, pieces, after_commit=lambda: None))
    for writer in writers:
        writer.start()
    assert [writer.result() for writer in writers] == [None] * len(writers)
    return path


def fragments_of(
    specs: list[ParameterSpec],
    tensor_rank: int,
    tensor: int,
    data_rank: int,
    cuts: list[list[float]],
) -> Iterator[ParameterFragment]:
    for number, spec in enumerate(specs):
        states = {
            state: local_slice(full_tensor(spec, state), spec, tensor_rank, tensor)
            for state in STATES
        }
        size = states["master"].numel()
        borders = [0, *sorted(int(cut[number % len(cut)] * size) for cut in cuts), size]
        start, stop = borders[data_rank], borders[data_rank + 1]
        if start < stop:
            pieces = {state: full.flatten()[start:stop] for state, full in states.items()}
            yield ParameterFragment(spec, tensor_rank, tensor, start, stop - start, pieces)


@st.composite
def drawn_spec(draw: st.DrawFn) -> ParameterSpec:
    """Draw a replicated or split parameter of one to three dimensions, perhaps split unevenly."""
    units = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    granularity = draw(st.integers(1, 3))
    even = draw(st.booleans())
    fused_sizes = [
        12 * granularity * count + (0 if even else draw(st.integers(0, 5))) for count in units
    ]
    shape = draw(st.lists(st.integers(1, 5), max_size=2))
    dimension = draw(st.integers(0, len(shape)))
    shape.insert(dimension, sum(fused_sizes))
    if draw(st.integers(0, 4)) == 0:
        return ParameterSpec(tuple(shape), ONES, name="p")
    return ParameterSpec(
        tuple(shape),
        ONES,
        name="p",
        split_dimension=dimension,
        fused_sizes=tuple(fused_sizes),
        granularity=granularity,
        require_even=even,
    )


@settings(max_examples=60, deadline=None)
@given(
    spec=drawn_spec(),
    tensor=st.sampled_from([1, 2, 3, 4]),
    reading=st.sampled_from([1, 2, 3, 4]),
    cuts=st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=1), max_size=3),
    borders=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_any_range_of_any_split_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    spec: ParameterSpec,
    tensor: int,
    reading: int,
    cuts: list[list[float]],
    borders: tuple[float, float],
) -> None:
    folder = tmp_path_factory.mktemp("checkpoint")
    path = write_checkpoint(folder, [spec], tensor=tensor, cuts=cuts)
    assert verify_checkpoint(path) is None
    with CheckpointReader(path) as reader:
        for state in STATES:
            full = full_tensor(spec, state)
            assert torch.equal(reader.full("p", state), full)
            for rank in range(reading):
                share = local_slice(full, spec, rank, reading).flatten()
                start, stop = sorted(int(border * share.numel()) for border in borders)
                values = reader.shard_range(
                    "p",
                    state,
                    ranges=spec.ranges(rank, reading),
                    start=start,
                    length=stop - start,
                )
                assert torch.equal(values, share[start:stop])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    specs = [
        ParameterSpec((6, 4), ONES, name="a.weight", split_dimension=1),
        ParameterSpec((4,), ONES, name="b.weight"),
        ParameterSpec((7, 3), ONES, name="c.weight", split_dimension=0, require_even=False),
    ]
    return write_checkpoint(tmp_path, specs, tensor=2, cuts=[[0.3, 0.5, 0.9]])


@pytest.mark.parametrize("reading", [1, 2])
def test_every_range_of_a_matrix_that_is_cut_along_columns(checkpoint: Path, reading: int) -> None:
    spec = ParameterSpec((6, 4), ONES, name="a.weight", split_dimension=1)
    full = full_tensor(spec, "master")
    with CheckpointReader(checkpoint) as reader:
        for rank in range(reading):
            share = local_slice(full, spec, rank, reading).flatten()
            for start in range(share.numel()):
                for stop in range(start + 1, share.numel() + 1):
                    values = reader.shard_range(
                        "a.weight",
                        "master",
                        ranges=spec.ranges(rank, reading),
                        start=start,
                        length=stop - start,
                    )
                    assert torch.equal(values, share[start:stop])


def test_other_tools_can_read_the_files(checkpoint: Path) -> None:
    """The files are readable by safetensors, JSON and YAML, without pickle."""
    assert {path.suffix for path in checkpoint.iterdir()} == {".safetensors", ".json", ".yaml"}
    values = load_file(checkpoint / "rank-00000.safetensors")
    assert values["a.weight/master"].tolist() == full_share("a.weight")[:3]
    assert all(array.dtype == "float32" for array in values.values())
    assert "b.weight/master" not in load_file(checkpoint / "rank-00001.safetensors")
    assert json.loads((checkpoint / "index.json").read_text())["state"]["step"] == 7


def full_share(name: str) -> list[float]:
    assert name == "a.weight"  # [6, 4] split in two along dimension 1
    return full_tensor(ParameterSpec((6, 4), ONES), "master")[:, :2].flatten().tolist()


def test_read_parameters_gives_whole_weights_by_name(checkpoint: Path) -> None:
    weights = dict(read_parameters(checkpoint))
    assert list(weights) == ["a.weight", "b.weight", "c.weight"]
    assert torch.equal(weights["a.weight"], torch.arange(24.0).view(6, 4))
    assert torch.equal(weights["c.weight"], torch.arange(21.0).view(7, 3))


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["rank-00003.safetensors", "recipe.yaml", "index.json"])
@pytest.mark.parametrize("fault", ["flipped", "cut short", "missing"])
def test_damage_is_named(checkpoint: Path, file: str, fault: str) -> None:
    path = checkpoint / file
    if fault == "flipped":
        # In the index: a digit of the step, so that it still parses and makes sense.
        position = path.read_bytes().index(b'"step": 7') + 8 if file == "index.json" else -1
        flip_bit(path, position)
    elif fault == "cut short":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.unlink()
    with pytest.raises(CheckpointDamagedError) as raised:
        dict(read_parameters(checkpoint))
    assert file in raised.value.message
    assert raised.value.remedy
    if fault == "cut short" and file != "index.json":
        assert "is truncated" in raised.value.message


def test_a_bit_flipped_anywhere_in_the_index_is_noticed(checkpoint: Path) -> None:
    size = len((checkpoint / "index.json").read_bytes())
    sound = Index.read(checkpoint)
    for position in range(0, size, 7):
        flip_bit(checkpoint / "index.json", position)
        with contextlib.suppress(UserError):
            assert Index.read(checkpoint) == sound  # only if the bit means nothing (white space)
        flip_bit(checkpoint / "index.json", position)
    assert Index.read(checkpoint) == sound


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint folder"):
        dict(read_parameters(tmp_path / "nowhere"))
    with pytest.raises(CheckpointDamagedError, match=r"index\.json is missing"):
        dict(read_parameters(tmp_path))


def test_a_checkpoint_of_a_newer_format_says_so(checkpoint: Path) -> None:
    newer = Index.read(checkpoint).model_copy(update={"format": 2})
    (checkpoint / "index.json").write_bytes(newer.dump())
    with pytest.raises(UserError, match="format 2"):
        Index.read(checkpoint)
