"""`data.copy_to`: training from copies on the nodes' own disks, the same as from the original."""

import os
from pathlib import Path

import pytest

from mmbert.training.run_config import print_plan, resolve_run_config
from tests.support.fake_nodes import pretend
from tests.support.job_processes import output_of, run_to_the_end
from tests.support.small_run import events, log_of, options_for, step_losses


def only_from(rank: int, hosts: list[str], disks: Path) -> None:
    """Give every host a TMPDIR of its own, and let a rank open no token file elsewhere."""
    pretend(hosts, rank)
    own = disks / hosts[rank]
    own.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(own)
    from mmbert.data.shards import mapped_file

    opened = mapped_file.MappedFile.__init__

    def opens(self: mapped_file.MappedFile, path: Path, *more: object) -> None:
        assert path.is_relative_to(own), path
        opened(self, path, *more)

    mapped_file.MappedFile.__init__ = opens


def test_a_run_reads_the_copies_and_goes_on_elsewhere(
    inputs: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run, disks = tmp_path / "run", tmp_path / "disks"
    options = options_for(inputs, run, "data.copy_to=$TMPDIR/shards", stop_after_phase="pretrain")
    statuses = run_to_the_end(options, before=only_from, arguments=(["a", "b"], disks))
    assert statuses == [0, 0], output_of(options)
    (event,) = events(run, "shards copied")
    assert set(event["folders"]) == {"a", "b"}
    copies = [next((disks / host / "shards").iterdir()) for host in "ab"]
    assert [event["folders"][host] for host in "ab"] == [str(copy) for copy in copies]
    assert event["original"] == str(inputs / "shards")
    files = event["files_copied"] // 2
    assert event["files_found"] == 0

    # One of the nodes again, with a damaged file, and two that were not used before.
    damaged = copies[0] / "text/eng_Latn/train-00000.bin"
    data = bytearray(damaged.read_bytes())
    data[100] ^= 1
    damaged.write_bytes(data)
    (disks / "a" / "shards" / "mmbert-shards-0").mkdir()
    options = options_for(inputs, run, "data.copy_to=$TMPDIR/shards", stop_after_phase="extension")
    hosts = ["a", "a", "c", "d"]
    statuses = run_to_the_end(options, world_size=4, before=only_from, arguments=(hosts, disks))
    assert statuses == [0] * 4, output_of(options)
    event = events(run, "shards copied")[-1]
    assert set(event["folders"]) == {"a", "c", "d"}
    assert (event["files_copied"], event["files_found"]) == (2 * files + 1, files - 1)
    assert event["files_damaged"] == 1
    assert "a: mmbert-shards-0" in event["text"]

    # Not a change of the recipe, and none of the data.
    options = options_for(inputs, run)
    assert run_to_the_end(options) == [0, 0], output_of(options)
    assert len(events(run, "shards copied")) == 2
    assert step_losses(run) == pytest.approx(step_losses(undisturbed), rel=1e-5)
    assert {e["step"] for e in log_of(run) if e.get("event") == "start"} == {0, 10, 16}


def without_a_variable(rank: int) -> None:
    pretend(["a", "b"], rank)
    os.environ["MY_DISK"] = "/tmp" if rank == 0 else ""


def test_a_variable_that_a_node_lacks_ends_all_ranks_with_one_message(
    inputs: Path, tmp_path: Path
) -> None:
    options = options_for(inputs, tmp_path / "run", f"data.copy_to=$MY_DISK{tmp_path}/disk")
    assert run_to_the_end(options, before=without_a_variable) == [2, 2], output_of(options)
    assert output_of(options).count("$MY_DISK is not set on b") == 1


def test_the_dry_run_says_what_would_be_copied(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    options = options_for(inputs, tmp_path / "run", "data.copy_to=$NOT_SET_HERE/shards")
    print_plan(resolve_run_config(options, 2), 2, sys.stdout)
    text = capsys.readouterr().out
    assert "files of the shards, " in text
    assert "are copied to $NOT_SET_HERE/shards/mmbert-shards-" in text
