"""The fault drill: what it survives, what it must not report as survived, and what it leaves."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmbert.fault_drill.faults import FAULTS
from mmbert.fault_drill.proxy import Proxy
from mmbert.fault_drill.ranks import free_port
from tests.support.command_lines import call
from tests.support.environment import ON_A_CPU, with_packages

COMMAND = [sys.executable, "-c", "from mmbert.cli import main; main()", "fault-drill", "drill"]

# A build that takes any checkpoint for a sound one, as Python loads it at the start of each rank.
WITHOUT_VERIFICATION = """
import sys
if "mmbert.fault_drill.rank" in sys.orig_argv:
    import mmbert.checkpoint.format
    mmbert.checkpoint.format.check_file = lambda path, entry: None
"""

SECRETS = dict.fromkeys(
    ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MMBERT_X"), "s3cr3t-in-the-environment"
)


def environment(home: Path, *first: Path) -> dict[str, str]:
    """Return an environment whose home and temporary folder are `home`."""
    return with_packages(
        *first, **ON_A_CPU, HOME=str(home), TMPDIR=str(home), SLURM_PROCID="3", **SECRETS
    )


def drill(folder: Path, *options: str, first: tuple[Path, ...] = ()) -> tuple[int, str]:
    """Run `mmbert fault-drill drill` in `folder`; return its status and output.

    Nothing may be left but the output folder.
    """
    home = folder / "home"
    home.mkdir()
    before = set(os.listdir(folder))
    done = subprocess.run(
        [*COMMAND, *options],
        cwd=folder,
        env=environment(home, *first),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,
    )
    assert set(os.listdir(folder)) - before == {"drill"}, done.stdout
    assert list(home.iterdir()) == []
    assert processes_in(folder) == []
    return done.returncode, done.stdout


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of processes that name `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_without_yes_it_says_what_it_would_do_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("mmbert fault-drill", ["drill"])
    assert outcome.refused
    assert "add --yes" in outcome.stderr
    for fault in FAULTS:
        assert f"{fault.name}: {fault.does}" in outcome.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("text")
    outcome = call("mmbert fault-drill", ["mine", "--yes"])
    assert outcome.refused
    assert "thesis.txt" in outcome.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_survived_and_no_file_has_a_secret(tmp_path: Path) -> None:
    """The files of preprocessing, training and checkpoints, and all output."""
    status, said = drill(tmp_path, "--yes", "--keep", "--only", "bit-flip")
    assert status == 0, said
    files = [path for path in (tmp_path / "drill").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert any(path.name == "log.jsonl" for path in files)
    secret = SECRETS["HF_TOKEN"]
    assert secret not in said
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    result = json.loads((tmp_path / "drill" / "fault-drill.json").read_text())
    assert (result["ranks"], result["tolerance"], result["survived"]) == (2, 0, True)
    (fault,) = result["faults"]
    assert (fault["fault"], fault["statuses"], fault["survived"]) == ("bit-flip", [0, 0], True)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_faults_are_survived(tmp_path: Path) -> None:
    status, said = drill(tmp_path, "--yes")
    assert status == 0, said
    assert [path.name for path in (tmp_path / "drill").iterdir()] == ["fault-drill.json"]
    result = json.loads((tmp_path / "drill" / "fault-drill.json").read_text())
    assert [one["fault"] for one in result["faults"]] == [fault.name for fault in FAULTS]


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_build_that_trusts_every_checkpoint_does_not_survive(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(WITHOUT_VERIFICATION)
    status, said = drill(tmp_path, "--yes", "--only", "bit-flip", first=(tmp_path / "broken",))
    assert status == 1, said
    assert "NO" in said
    result = json.loads((tmp_path / "drill" / "fault-drill.json").read_text())
    assert not result["survived"]
    # Its files stay, to be looked at.
    assert (tmp_path / "drill" / "drill-files" / "bit-flip.log").is_file()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [*COMMAND, "--yes", "--only", "kill"],
        cwd=tmp_path,
        env=environment(tmp_path / "home"),
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # In the background of a shell, it is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        log = tmp_path / "drill" / "drill-files" / "undisturbed.log"
        while not (log.is_file() and log.stat().st_size):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        assert process.wait() == 130
    assert list(tmp_path.iterdir()) == []
    assert processes_in(tmp_path) == []


def test_the_proxy_forwards_until_it_is_cut() -> None:
    with (
        socket.create_server(("127.0.0.1", free_port())) as server,
        Proxy(server.getsockname()[1], cut_after=8) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as near,
    ):
        far, _ = server.accept()
        with far:
            near.sendall(b"ping")
            assert far.recv(9) == b"ping"
            far.sendall(b"pong")
            assert near.recv(9) == b"pong"
            assert not proxy.was_cut
            near.sendall(b"x")
            assert far.recv(9) == b""
            assert proxy.was_cut
        with pytest.raises(ConnectionError):
            socket.create_connection(("127.0.0.1", proxy.port))
