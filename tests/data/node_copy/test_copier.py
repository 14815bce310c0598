"""Copies of shards: interrupted, damaged, on a full disk, of two processes at once."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from mmbert.data.node_copy import copier as copier_module
from mmbert.data.node_copy import copy_plan
from mmbert.data.node_copy.copier import Copier
from mmbert.data.node_copy.copy_plan import (
    PARTIAL,
    CopyPlan,
    corpus_at,
    expand_folder,
    make_copy_folder,
    other_copies,
    plan_copy,
)
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import OutputError, RecipeError, ShardsError
from tests.support.corpora import write_corpus
from tests.support.file_limits import files_no_longer_than

CONTEXT = 64


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    languages = {"eng_Latn": [100] * 40, "deu_Latn": [90, 200, 70], "fra_Latn": [10] * 5}
    sources = {"web": languages, "books": {"eng_Latn": [300] * 3}, "unused": {"eng_Latn": [9]}}
    write_corpus(tmp_path / "shards", sources, contexts=(32, CONTEXT), heldout=(30, 40))
    return open_corpus(tmp_path / "shards")


@pytest.fixture
def plan(corpus: Corpus) -> CopyPlan:
    return plan_copy(corpus, {"web", "books"}, CONTEXT)


def copy(plan: CopyPlan, folder: Path) -> Copier:
    made = Copier(plan.origin, folder, plan.files)
    for _ in made.run():
        pass
    return made


def assert_whole(plan: CopyPlan, folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {file.path for file in plan.files}
    for file in plan.files:
        assert (folder / file.path).read_bytes() == (plan.origin / file.path).read_bytes()


def test_a_copy_holds_what_the_run_reads_and_keeps_the_originals_name(
    corpus: Corpus, plan: CopyPlan, tmp_path: Path
) -> None:
    folder = make_copy_folder(tmp_path / "disk", plan, "a")
    first = copy(plan, folder)
    assert_whole(plan, folder)
    assert not any("unused" in file.path or "pieces-32" in file.path for file in plan.files)
    assert (first.copied, first.found, first.damaged) == (len(plan.files), 0, 0)
    assert first.done_bytes == plan.bytes == first.copied_bytes
    moved = corpus_at(corpus, plan, folder)
    shutil.rmtree(plan.origin / "web")
    component = moved.component("web", "deu_Latn")
    assert moved.root == corpus.root
    assert len(moved.document(component, "train", 1)) == 200
    assert len(moved.continuation_index(component, CONTEXT)) == 5
    again = copy(plan, folder)
    assert (again.copied, again.found, again.done_bytes) == (0, len(plan.files), plan.bytes)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / plan.files[0].path).stat().st_mode & 0o777 == 0o600


def test_an_interrupted_copy_goes_on_by_file(plan: CopyPlan, tmp_path: Path) -> None:
    begun = Copier(plan.origin, tmp_path / "copy", plan.files)
    steps = begun.run()
    for _ in range(5):
        next(steps)
    steps.close()
    rest = copy(plan, tmp_path / "copy")
    assert rest.found == begun.copied > 2
    assert rest.copied == len(plan.files) - begun.copied
    assert_whole(plan, tmp_path / "copy")


def slowly(plan: CopyPlan, folder: Path) -> None:
    copier_module._BLOCK = 64
    for _ in Copier(plan.origin, folder, plan.files).run():
        time.sleep(0.01)


def test_a_killed_copy_leaves_nothing_that_counts_as_finished(
    plan: CopyPlan, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    process = multiprocessing.get_context("fork").Process(target=slowly, args=(plan, folder))
    process.start()
    deadline = time.monotonic() + 60
    while not (left := [path for path in folder.rglob(f"*{PARTIAL}") if path.stat().st_size]):
        assert time.monotonic() < deadline
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert left
    copy(plan, folder)
    assert_whole(plan, folder)


def test_damaged_and_cut_copies_are_made_again(plan: CopyPlan, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    copy(plan, folder)
    cut, damaged = folder / plan.files[0].path, folder / plan.files[3].path
    cut.write_bytes(cut.read_bytes()[:-1])
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    again = copy(plan, folder)
    assert (again.copied, again.damaged, again.found) == (2, 2, len(plan.files) - 2)
    assert again.done_bytes == plan.bytes
    assert_whole(plan, folder)


def test_a_damaged_original_is_named_and_not_kept(plan: CopyPlan, tmp_path: Path) -> None:
    origin = plan.origin / plan.files[2].path
    data = bytearray(origin.read_bytes())
    data[0] ^= 1
    origin.write_bytes(data)
    with pytest.raises(ShardsError, match="checksum") as error:
        copy(plan, tmp_path / "copy")
    assert str(origin) in str(error.value)
    assert not list((tmp_path / "copy").rglob(f"{origin.name}*"))
    origin.unlink()
    with pytest.raises(ShardsError, match="cannot read"):
        copy(plan, tmp_path / "copy")


def test_a_full_disk_keeps_finished_files_and_frees_the_rest(
    plan: CopyPlan, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    large = max(plan.files, key=lambda file: file.estimate)
    with files_no_longer_than(large.estimate - 1), pytest.raises(OutputError) as error:
        copy(plan, folder)
    assert "no space left" in str(error.value)
    assert large.path in str(error.value)
    assert not list(folder.rglob(f"*{PARTIAL}"))
    assert copy(plan, folder).found == plan.files.index(large)
    assert_whole(plan, folder)


def test_two_at_once_copy_each_file_once(
    plan: CopyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copier_module, "_BLOCK", 500)
    monkeypatch.setattr(copier_module, "_WAIT_SECONDS", 0)
    folder = tmp_path / "copy"
    one, two = (Copier(plan.origin, folder, plan.files) for _ in range(2))
    working = {one: one.run(), two: two.run()}
    while working:
        for copier, steps in list(working.items()):
            if next(steps, working) is working:
                del working[copier]
    assert one.copied + two.copied == one.found + two.found == len(plan.files)
    assert one.damaged == two.damaged == 0
    assert_whole(plan, folder)


def test_too_little_space_is_named_with_figures_before_a_byte_is_copied(
    plan: CopyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(copy_plan.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OutputError) as error:
        make_copy_folder(tmp_path / "disk", plan, "node7")
    assert f"{tmp_path / 'disk'} on node7 has 1.00kB free" in str(error.value)
    assert plan.size in str(error.value)
    # What is there needs no space.
    copy(plan, tmp_path / "disk" / plan.folder_name)
    make_copy_folder(tmp_path / "disk", plan, "node7")


def test_other_shards_have_a_folder_of_their_own(
    corpus: Corpus, plan: CopyPlan, tmp_path: Path
) -> None:
    fewer = plan_copy(corpus, {"books"}, CONTEXT)
    folder = make_copy_folder(tmp_path, plan, "a")
    other = make_copy_folder(tmp_path, fewer, "a")
    assert folder != other
    assert other_copies(folder) == [other.name]
    (tmp_path / "link").symlink_to(other)
    folder.rmdir()
    folder.symlink_to(other)
    with pytest.raises(OutputError, match="not a folder of this user"):
        make_copy_folder(tmp_path, plan, "a")


def test_variables_are_those_of_the_node() -> None:
    known = {"TMPDIR": "/tmp/job 1", "EMPTY": ""}
    assert expand_folder("$TMPDIR/${TMPDIR}x", known, "a") == Path("/tmp/job 1//tmp/job 1x")
    assert expand_folder("/a$$b", known, "a") == Path("/a$b")
    for text, message in {
        "$SCRATCH/x": r"\$SCRATCH is not set on a",
        "$EMPTY/x": r"\$EMPTY is not set on a",
        "/x/$": "begins no variable",
        "x/y": "no absolute path",
    }.items():
        with pytest.raises(RecipeError, match=message):
            expand_folder(text, known, "a")
