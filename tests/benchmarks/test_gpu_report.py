"""The GPU report: rehearsed on a CPU, and parts that fail, hang, or find no time, GPU or memory."""

import json
import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.benchmarks import bench_gpu_step
from tests.benchmarks.gpu_report import __main__ as program
from tests.benchmarks.gpu_report.page import page
from tests.benchmarks.gpu_report.parts import PARTS
from tests.benchmarks.gpu_report.records import FIGURES, Recorder, figures
from tests.benchmarks.gpu_report.supervisor import Ending, Outcome, Part, limit_for, run_parts
from tests.benchmarks.gpu_report.verification import TESTS, operation_results, unverified_reason
from tests.support import json_lines
from tests.support.environment import ON_A_CPU, ROOT, with_packages
from tests.support.tiny_run import PREPROCESS, write_text

RECIPE = ROOT / "src" / "mmbert" / "recipes" / "demo.yaml"
GEGLU = "tests/kernels/test_triton.py::test_values_and_gradients[geglu-"
ROTARY = "tests/kernels/test_triton.py::test_values_and_gradients[rotary-"


def part(
    name: str,
    script: str,
    *,
    share: float = 1.0,
    max_seconds: float = math.inf,
    min_seconds: float = 0.1,
    needs_gpu: bool = False,
) -> Part:
    command = ("sh", "-c", script)
    return Part(name, name.capitalize(), command, share, max_seconds, min_seconds, needs_gpu)


# In a minute; a part's script knows the report's folder as MMBERT_GPU_REPORT.
run = partial(run_parts, seconds=60.0, environment=dict(os.environ), directory=ROOT)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a whole report on a CPU, its real run on invented text."""
    folder = tmp_path_factory.mktemp("report")
    write_text(folder / "text")
    preprocess = (
        *(sys.executable, PREPROCESS, "--input", folder / "text"),
        *("--output", folder / "data" / "shards", "--recipe", RECIPE, "--workers", "1"),
        *("--vocab-size", "800", "--heldout-fraction", "0.1"),
    )
    report = (
        *(sys.executable, "-m", "tests.benchmarks.gpu_report", "--device", "cpu"),
        *("--minutes", "60", "--output", folder / "out", "--data", folder / "data"),
    )
    for command in (preprocess, report):
        done = subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=with_packages(ROOT, **ON_A_CPU),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


@pytest.mark.long
def test_every_part_of_the_rehearsal_has_its_figures(rehearsal: Path) -> None:
    report = json.loads((rehearsal / "gpu-report.json").read_text())
    assert [each["name"] for each in report["parts"]] == list(PARTS)
    assert all(each["ending"] == Ending.DONE for each in report["parts"])
    found = {
        (each["part"], each["quantity"]): each["value"]
        for each in report["figures"]
        if each["quantity"]
    }
    assert found["step", "tokens"] > 0
    assert found["step", "time"] >= 0
    assert found["kernels", "floor / both"] > 0
    assert found["kernels", "eager, both"] > 0
    assert found["pack", "as long as packed"] > 0
    assert found["pack", "loss off by"] < 2e-3
    assert found["experiments", "four times the slots"] > 0
    assert found["transformers", "ours"] > 0
    # a run of nine steps, killed in its second phase, that lost none of them
    assert 3 < found["run", "after step"] <= 9
    assert found["run", "first step"] > found["run", "at the end"] - 1
    assert found["run", "new steps"] + found["run", "after step"] >= 9


@pytest.mark.long
def test_the_rehearsals_page_is_honest(rehearsal: Path) -> None:
    text = (rehearsal / "gpu-report.md").read_text()
    assert "these figures say nothing about a GPU" in text
    assert "unverified" in text
    assert "reached" not in text
    assert "MISSED" not in text
    (folder,) = (rehearsal / "gpu-report").iterdir()
    records = list(json_lines.records(folder / TESTS))
    collected = {test for record in records for test in record.get("collected", [])}
    passed = {record["test"] for record in records if record.get("outcome") == "passed"}
    assert collected == passed != set()


def test_a_part_that_fails_stops_no_other(tmp_path: Path) -> None:
    failing = part("failing", "echo some words; echo the cause >&2; exit 3")
    outcomes = run([failing, part("next", "echo fine")], tmp_path)
    assert [each.ending for each in outcomes] == [Ending.FAILED, Ending.DONE]
    assert outcomes[0].reason == "status 3"
    assert outcomes[0].last_lines == ("some words", "the cause")
    assert "the cause" in page(tmp_path, "A heading", outcomes)
    assert (tmp_path / "next.txt").read_text() == "fine\n"


def test_a_part_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    """Even what does not listen to SIGTERM and has a process group of its own (`set -m`)."""
    script = "trap '' TERM; set -m; sleep 300 & echo $! > $MMBERT_GPU_REPORT/child; wait"
    hanging = part("hanging", script, max_seconds=2.0)
    outcomes = run([hanging, part("next", "echo fine")], tmp_path)
    assert [each.ending for each in outcomes] == [Ending.OUT_OF_TIME, Ending.DONE]
    assert outcomes[0].reason == "stopped after 2 s"
    child = int((tmp_path / "child").read_text())
    assert not _lives(child)


def _lives(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_when_time_runs_out_the_rest_is_not_begun(tmp_path: Path) -> None:
    on_outcome: list[int] = []
    clock = iter([0.0, 0.0, 57.0]).__next__
    parts = [
        part("first", "echo fine"),
        part("second", "touch $MMBERT_GPU_REPORT/begun", min_seconds=10.0),
    ]
    outcomes = run(
        parts, tmp_path, clock=clock, on_outcome=lambda so_far: on_outcome.append(len(so_far))
    )
    assert [each.ending for each in outcomes] == [Ending.DONE, Ending.NOT_BEGUN]
    assert outcomes[1].reason == "0 s were left, it needs 10"
    assert not (tmp_path / "begun").exists()
    assert on_outcome == [1, 2]


def test_time_that_a_part_leaves_goes_to_the_others() -> None:
    parts = [part("a", "", share=1.0, max_seconds=10.0), part("b", "", share=3.0)]
    assert limit_for(parts, 100.0) == 10.0
    assert limit_for(parts, 20.0) == 5.0
    assert limit_for(parts[1:], 100.0) == 100.0


def test_without_a_gpu_only_the_machine_is_looked_at(tmp_path: Path) -> None:
    parts = [
        part("machine", "echo fine"),
        part("step", "touch $MMBERT_GPU_REPORT/begun", needs_gpu=True),
    ]
    outcomes = run(parts, tmp_path, blocker=lambda: "none found: install a driver")
    assert [each.ending for each in outcomes] == [Ending.DONE, Ending.NOT_BEGUN]
    assert not (tmp_path / "begun").exists()
    assert "none found: install a driver" in page(tmp_path, "", outcomes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_machine_part_finds_that_there_is_no_gpu(tmp_path: Path) -> None:
    assert program.main(["--parts", "machine", "step", "--output", str(tmp_path)]) == 1
    report = json.loads((tmp_path / "gpu-report.json").read_text())
    assert [each["ending"] for each in report["parts"]] == [Ending.DONE, Ending.NOT_BEGUN]
    assert "none" in report["parts"][1]["reason"]


def test_a_second_report_at_the_same_time_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with program.exclusive(tmp_path):
        assert program.main(["--output", str(tmp_path)]) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_where_nothing_can_be_written_the_report_goes_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    elsewhere = program.writable_folder(tmp_path / "file" / "build")
    assert elsewhere.is_dir()
    assert str(elsewhere) in capsys.readouterr().out
    elsewhere.rmdir()


def test_an_interrupted_report_leaves_its_page(tmp_path: Path) -> None:
    """Also at the worst moment: the part itself interrupts it, while it is being started."""
    script = (
        "import signal, sys; from pathlib import Path\n"
        "from tests.benchmarks.gpu_report import __main__ as program\n"
        "from tests.benchmarks.gpu_report.supervisor import Part\n"
        "signal.signal(signal.SIGTERM, program._stopped)\n"
        "out = Path(sys.argv[1])\n"
        "hang = f'echo $$ > {out}/part; kill -TERM $PPID; exec sleep 300'\n"
        "parts = [Part('a', 'A', ('sh', '-c', 'true'), 1, needs_gpu=False),\n"
        "         Part('b', 'B', ('sh', '-c', hang), 1, needs_gpu=False)]\n"
        "program.make_report(parts, out, 10, 'heading')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=ROOT,
        env=with_packages(ROOT),
        timeout=200,
        check=False,
    )
    assert done.returncode == 128 + signal.SIGTERM
    text = (tmp_path / "gpu-report.md").read_text()
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith(("| A", "| B"))]
    assert [[cell.strip() for cell in row] for row in rows] == [["A", "done"], ["B", "interrupted"]]
    assert not _lives(int((tmp_path / "part").read_text()))


def test_a_setting_that_does_not_fit_is_said_and_the_next_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def speed_of(setting: bench_gpu_step.Setting, *_: object) -> bench_gpu_step.Speed:
        if setting.name == "base":
            raise torch.OutOfMemoryError
        return bench_gpu_step.Speed("ours", 1.0, 2.0, 3.0, None, 0.5, 0.1)

    monkeypatch.setattr(bench_gpu_step, "_speed_of", speed_of)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (3 << 30, 80 << 30))
    recipe = bench_gpu_step.recipe_of("small", 128, 256, tiny=True)
    chosen = [bench_gpu_step.Setting(name, 128, recipe, ()) for name in ("base", "small")]
    device = bench_gpu_step.Device(torch.device("cpu"), None, 1.0, 1.0)
    arguments = program.argparse.Namespace(steps=1, device="cpu")
    found = bench_gpu_step.speeds(chosen, device, arguments, Recorder("step", tmp_path))
    assert list(found) == ["small 128"]
    said = [each for each in figures(tmp_path) if each.subject == "base 128"]
    assert "3.0 of 80.0 GiB are free" in str(said[0].value)
    assert "--tokens" in str(said[0].value)


def write_tests(folder: Path, outcomes: dict[str, str], collected: tuple[str, ...]) -> None:
    json_lines.append(folder / TESTS, {"collected": collected})
    for test, outcome in outcomes.items():
        json_lines.append(folder / TESTS, {"test": test, "outcome": outcome})


def test_a_figure_is_verified_by_the_tests_of_its_operation_alone(tmp_path: Path) -> None:
    """Whatever became of others; a run cut short counts for the tests that had ended."""
    attention = "tests/kernels/packed_attention/test_gpu_libraries.py::test_attention_on_a_gpu"
    collected = (f"{GEGLU}[a]", f"{GEGLU}[b]", f"{ROTARY}[a]", f"{ROTARY}_x[a]", f"{attention}[a]")
    outcomes = {
        f"{GEGLU}[a]": "passed",
        f"{GEGLU}[b]": "passed",
        f"{ROTARY}[a]": "passed",
        f"{attention}[a]": "skipped",
    }
    write_tests(tmp_path, outcomes, collected)
    with (tmp_path / TESTS).open("a") as file:
        file.write('{"test": "tests/kern')  # its writer was killed
    assert unverified_reason(tmp_path, ["geglu"]) == ""
    assert unverified_reason(tmp_path, ["rotary"]) == "rotary: 1 of 2 tests did not end"
    assert unverified_reason(tmp_path, ["attention"]) == "attention: its tests were skipped"
    assert unverified_reason(tmp_path, ["optimizer"]) == "optimizer: its tests have not run"
    assert unverified_reason(tmp_path, ["geglu", "rotary"]) == "rotary: 1 of 2 tests did not end"
    assert (
        unverified_reason(tmp_path, ["optimizer", "memory"])
        == "of all operations: its tests have not run"
    )
    assert unverified_reason(None, ["geglu"]) == "no tests were run with it"
    assert unverified_reason(tmp_path, []) == ""


def test_one_failed_test_is_enough(tmp_path: Path) -> None:
    write_tests(tmp_path, {GEGLU: "failed"}, (GEGLU,))
    write_tests(tmp_path, {GEGLU: "passed"}, ())  # its teardown, or a second try
    assert operation_results(tmp_path) == {"geglu": "1 of 1 tests failed"}


def test_figures_say_so_where_they_are_printed_and_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tests(tmp_path, {GEGLU: "passed", ROTARY: "failed"}, (GEGLU, ROTARY))
    recorder = Recorder("kernels", tmp_path)
    recorder.figure("geglu", "both", 1.234567, "ms", ("geglu",))
    recorder.figure("rotary", "both", 12345.6, "ms", ("rotary",))
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "geglu: both 1.235 ms",
        "rotary: both 12,346 ms  [unverified: rotary: 1 of 1 tests failed]",
    ]
    done = Outcome("kernels", "Kernels", Ending.DONE, 1.0)
    rows = [line for line in page(tmp_path, "", [done]).splitlines() if "1.235" in line]
    assert [cell.strip() for cell in rows[0].strip("|").split("|")] == ["geglu", "1.235", "yes"]
    assert "unverified (rotary: 1 of 1 tests failed)" in page(tmp_path, "", [done])
    recorder.figure("loss", "last step", math.nan, "nats")  # the worst of runs is still told
    assert capsys.readouterr().out == "loss: last step nan nats\n"
    assert len((tmp_path / FIGURES).read_text().splitlines()) == 3


def test_outcomes_come_from_workers_too(tmp_path: Path) -> None:
    """On a GPU the tests run in several processes."""
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "@pytest.mark.skip\n"
        "def test_left_out(): pass\n"
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"),
            *("-p", "tests.benchmarks.gpu_report.outcomes", "--rootdir", str(tmp_path)),
            str(tmp_path / "test_some.py"),
        ],
        cwd=tmp_path,
        env=with_packages(ROOT, MMBERT_GPU_REPORT=str(tmp_path)),
        capture_output=True,
        timeout=200,
        check=False,
    )
    records = list(json_lines.records(tmp_path / TESTS))
    (collected,) = (record["collected"] for record in records if "collected" in record)
    assert len(collected) == 3
    outcomes = {r["test"].rpartition("::")[2]: r["outcome"] for r in records if "test" in r}
    assert outcomes == {"test_good": "passed", "test_bad": "failed", "test_left_out": "skipped"}
