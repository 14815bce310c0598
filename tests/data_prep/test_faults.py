"""Faults: killed processes, a full disk, concurrent runs. A rerun gives the same bytes."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from mmbert.errors import UserError
from mmbert.ownership import FolderOwner, take_folder, this_process
from mmbert_prep.executor.lock import output_lock
from mmbert_prep.shards import intermediate, languages
from mmbert_prep.tokenization.fast_encoder import FastEncoder
from tests.support.sample_files import TEXT_FILES
from tests.support.texts import (
    ROOT,
    command,
    command_line,
    documents,
    environment,
    run,
    tree,
    write_corpus,
)

MPIRUN = Path(sys.executable).with_name("mpirun")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, scale=3)
    for number, (suffix, write) in enumerate(TEXT_FILES.items()):
        language = f"aa{'abcdefghijklmnop'[number]}_Latn"
        write(folder / f"{language}{suffix}", documents(language, 40))
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    output = tmp_path_factory.mktemp("undisturbed")
    run(corpus, output)
    return tree(output)


@pytest.fixture(scope="module")
def bigger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough work units that a run is still busy when a test kills it."""
    folder = tmp_path_factory.mktemp("bigger")
    write_corpus(folder, scale=15)
    return folder


def start(corpus: Path, output: Path, workers: int) -> subprocess.Popen:
    arguments = command("--input", corpus, "--output", output, "--workers", workers)
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=environment(),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def wait_for_units(output: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(output.glob(".preprocess/text/units-*/*.json"))) < count:
        assert time.monotonic() < deadline, "the run wrote no intermediate shards"
        time.sleep(0.01)


def suspend_while_reading(first: psutil.Process, output: Path) -> None:
    """Suspend worker 1 (worker 0 is the command itself) while it reads a file."""
    deadline = time.monotonic() + 60
    while True:
        first.suspend()
        if any(note.read_text() for note in output.glob(".preprocess/*/progress/reading-1")):
            return
        assert time.monotonic() < deadline, "the worker reads nothing"
        first.resume()
        time.sleep(0.01)


def unit_times(output: Path) -> dict[str, int]:
    times = {}
    for path in output.glob(".preprocess/text/units-*/*.json"):
        with contextlib.suppress(FileNotFoundError):  # removed at the end of a run
            times[path.name] = path.stat().st_mtime_ns
    return times


def test_a_killed_run_continues_with_what_is_not_done(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    process = start(corpus, output, workers=2)
    wait_for_units(output, 5)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = unit_times(output)
    assert len(done) >= 5
    kept: dict[str, int] = {}
    second = start(corpus, output, workers=3)
    while second.poll() is None:
        kept |= unit_times(output)
        time.sleep(0.005)
    assert second.stderr is not None
    assert second.returncode == 0, second.stderr.read().decode()
    assert len(kept) > len(done)
    assert {name: kept[name] for name in done} == done, "finished units were redone"
    assert tree(output) == undisturbed


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_many_moments(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    generator = random.Random(5)
    for attempt in range(8):
        output = tmp_path / str(attempt)
        while True:
            process = start(corpus, output, workers=generator.randint(1, 3))
            try:
                process.wait(timeout=generator.uniform(0.5, 6))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            if process.wait() == 0:
                break
            # Published languages are complete.
            for path in output.glob("text/*/manifest.json"):
                name = str(path.relative_to(output))
                assert path.read_bytes() == undisturbed[name]
        assert tree(output) == undisturbed


def test_a_killed_worker_ends_the_run_and_leaves_no_process(bigger: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = start(bigger, output, workers=3)
    wait_for_units(output, 1)
    children = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in children if "spawn_main" in " ".join(child.cmdline())]
    suspend_while_reading(workers[0], output)
    workers[0].kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert b"killed" in errors
    assert b"workers were reading: " in errors
    assert str(bigger).encode() in errors, "the error names the file"
    assert b"run the same command again" in errors
    _, alive = psutil.wait_procs(children, timeout=10)
    again = command_line("--input", bigger, "--output", output, "--workers", 1)
    assert again.returncode == 0, again.stderr
    assert "the last run ended abruptly while reading" in again.stderr
    assert not alive


def test_a_killed_leader_takes_its_workers_with_it(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, tmp_path / "out", workers=3)
    wait_for_units(tmp_path / "out", 3)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=15)
    assert not alive


def test_two_runs_into_one_output_refuse_each_other(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    (output / ".preprocess").mkdir(parents=True)
    with output_lock(output / ".preprocess" / "lock.json"):
        result = command_line("--input", corpus, "--output", output, "--workers", 1)
    assert result.returncode == 2
    assert f"process {os.getpid()} on" in result.stderr
    assert "→ wait for it to end" in result.stderr


@pytest.mark.parametrize("moment", ["select", "is_published"])
def test_a_run_whose_output_was_taken_over_publishes_nothing(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """As after a suspension in which another run began: at a claim, and before a rename."""
    output = tmp_path / "out"
    lock = output / ".preprocess" / "lock.json"
    others: list[FolderOwner] = []

    def taken(*arguments: Any) -> Any:
        if not others:
            others.append(take_folder(lock.parent, name=lock.name, forced=True))
        return original(*arguments)

    original = getattr(languages, moment)
    monkeypatch.setattr(languages, moment, taken)
    with pytest.raises(UserError, match=f"output folder {output} was taken over by process"):
        run(corpus, output)
    assert not list(output.glob("text/*/manifest.json"))
    others[0].check()
    others[0].release()


def test_locks_of_the_dead_are_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".preprocess" / "lock.json"
    path.parent.mkdir()
    dead = this_process().model_copy(update={"started": "1"})  # a reused process id
    path.write_text(dead.model_dump_json())
    with output_lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()
    elsewhere = this_process().model_copy(update={"host": "elsewhere", "pid": 3})
    for holder, named in ((elsewhere.model_dump_json(), "process 3 on elsewhere"), ("{ cut", "")):
        path.write_text(holder)
        with pytest.raises(UserError, match=f"being written by .*{named}"), output_lock(path):
            pass
        os.utime(path, (1, 1))  # no renewal for a long time
        with output_lock(path):
            pass


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_disk(corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        result = command_line("--input", corpus, "--output", disk / "out", "--workers", 2)
        assert result.returncode == 2, result.stderr
        assert f"no space left while writing {disk}" in result.stderr
        assert "run the same" in result.stderr
        assert not list(disk.glob("out/text/*/manifest.json"))
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        result = command_line("--input", corpus, "--output", disk / "out", "--workers", 2)
        assert result.returncode == 0, result.stderr
        assert tree(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_parts_of_another_accelerator_are_not_mixed_in(
    corpus: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    output = tmp_path / "out"
    monkeypatch.setattr(languages, "finish_language", fail)
    with pytest.raises(UserError, match=f"no space left while writing {output}"):
        run(corpus, output)
    monkeypatch.undo()
    first = [path.stat().st_mtime_ns for path in output.glob(".preprocess/text/staging/*/*.bin")]
    assert len(first) >= 6
    run(corpus, output, fast_encoder="none")
    assert min(path.stat().st_mtime_ns for path in output.glob("text/*/*.bin")) > max(first)
    found = tree(output)
    assert found.pop("text/summary.json") != undisturbed["text/summary.json"]
    assert found == {name: data for name, data in undisturbed.items() if name in found}


def test_a_run_that_gave_up_its_accelerator_says_so(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if an earlier start disabled it; the shards are the same."""
    pytest.importorskip("kitoken")
    original = FastEncoder._verify_adversarial

    def differ(self: FastEncoder) -> None:
        original(self)
        self.enabled = False

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    output = tmp_path / "out"
    monkeypatch.setattr(FastEncoder, "_verify_adversarial", differ)
    monkeypatch.setattr(languages, "finish_language", fail)
    with pytest.raises(UserError, match="no space left"):
        run(corpus, output)
    monkeypatch.undo()
    assert run(corpus, output).accelerator == "given up"
    found = tree(output)
    summary = json.loads(found.pop("text/summary.json"))
    expected = json.loads(undisturbed["text/summary.json"])
    assert expected["accelerator"] == "kitoken"
    assert summary == {**expected, "accelerator": "given up"}
    assert found == {name: data for name, data in undisturbed.items() if name in found}


@pytest.mark.parametrize("failing", [3, 20])
def test_a_write_that_fails_leaves_nothing_half_visible(
    failing: int,
    corpus: Path,
    undisturbed: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = 0
    original = intermediate.write_json

    def fail(path: Path, value: object) -> None:
        nonlocal calls
        calls += 1
        if calls == failing:
            raise OSError(errno.EIO, "input/output error", str(path))
        original(path, value)

    monkeypatch.setattr(intermediate, "write_json", fail)
    with pytest.raises(OSError, match="input/output error"):
        run(corpus, tmp_path / "out")
    monkeypatch.undo()
    assert not list(tmp_path.glob("out/text/*/manifest.json"))
    run(corpus, tmp_path / "out")
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.skipif(not MPIRUN.exists(), reason="no MPI in this environment")
class TestMpi:
    """Runs of real MPI ranks."""

    LAUNCHER = (str(MPIRUN), "--allow-run-as-root", "--oversubscribe", "-n", "2")

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.LAUNCHER, sys.executable, "-m", "mpi4py", *command(*arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**environment(), "OMPI_MCA_osc": "^ucx"},
            cwd=ROOT,
        )

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=120)
        return subprocess.CompletedProcess([], process.returncode, output, errors)

    def test_several_sources_give_the_same_bytes_as_one_process(self, tmp_path: Path) -> None:
        text = documents("swh_Latn", 300)
        for name, part in (("web", text[:200]), ("books", text[100:])):
            (tmp_path / name).mkdir()
            (tmp_path / name / "swh_Latn.txt").write_text("\n\n".join(part), "utf-8")
        words = [word for n in ("web", "books") for word in ("--source", f"{n}={tmp_path / n}")]
        result = self.run("--output", tmp_path / "ranks", *words)
        assert result.returncode == 0, result.stderr
        alone = command_line("--output", tmp_path / "alone", *words, "--workers", 1)
        assert "duplicate_of_source 100" in alone.stderr
        assert tree(tmp_path / "ranks") == tree(tmp_path / "alone")

    def test_the_same_bytes_as_one_process(
        self, corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
    ) -> None:
        result = self.run("--input", corpus, "--output", tmp_path / "out")
        assert result.returncode == 0, result.stderr
        assert tree(tmp_path / "out") == undisturbed

    def test_killed_ranks_redo_only_what_they_were_at(self, bigger: Path, tmp_path: Path) -> None:
        output = tmp_path / "out"
        process = self.start("--input", bigger, "--output", output)
        wait_for_units(output, 5)
        ranks = [
            child
            for child in psutil.Process(process.pid).children(recursive=True)
            if "mpi4py" in child.cmdline()
        ]
        assert len(ranks) == 2
        for rank in ranks:
            rank.suspend()
        second = self.run("--input", bigger, "--output", output)
        assert second.returncode == 2, second.stderr
        assert f"the output folder {output} is being written by process" in second.stderr
        ranks[1].kill()
        ranks[0].resume()
        process.communicate(timeout=60)
        assert process.returncode != 0
        psutil.wait_procs(ranks, timeout=15)
        done = unit_times(output)
        assert len(done) >= 5
        kept: dict[str, int] = {}
        again = self.start("--input", bigger, "--output", output)
        while again.poll() is None:
            kept |= unit_times(output)
            time.sleep(0.005)
        assert again.returncode == 0, again.communicate()[1]
        assert {name: kept[name] for name in done} == done, "finished units were redone"
        run(bigger, tmp_path / "one")
        assert tree(output) == tree(tmp_path / "one")

    def test_wrong_input_ends_all_ranks(self, tmp_path: Path) -> None:
        result = self.run("--input", tmp_path / "missing", "--output", tmp_path / "out")
        assert result.returncode == 2
        assert "does not exist" in result.stderr
