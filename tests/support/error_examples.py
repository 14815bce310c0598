"""Provokes the examples of `mmbert.error_kinds`: prepares a folder, runs the command as typed."""

import contextlib
import importlib
import io
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from mmbert.error_kinds import ErrorKind
from mmbert.errors import UserError
from tests.support.environment import ROOT
from tests.support.ranks import become_rank, free_port, rank_server

KEPT = ROOT / "tests" / "fixtures" / "kept"
NAMES = {
    "recipe.yaml": "my_recipe.yaml",
    "text": "my_corpus",
    "shards": "my_shards",
    "run": "my_run",
    "export": "my_model",
}
"""File in tests/fixtures/kept -> its name in the commands."""
_STARTS_TRAINING = {"DeviceError", "ResumeError", "DivergenceError"}
"""Examples that start training, which ends its process."""
_MAINS = {"mmbert_prep": "mmbert_prep.cli"}
"""Package -> module with its `main`."""


@dataclass(frozen=True)
class Outcome:
    """Result of a command."""

    kind: str
    """Class of the error that was printed."""
    printed: str
    """Standard error from `error:` on."""
    status: int


def provoke(example: ErrorKind, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Run the example of a kind in the empty `folder`."""
    for name, new in NAMES.items():
        source = KEPT / name
        copy: Callable[[Path, Path], object] = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / new)
    monkeypatch.chdir(folder)
    variables, words = _split(example.command)
    if example.name in _PREPARE:
        variables |= _PREPARE[example.name](monkeypatch) or {}
    if words[0] == "mmbert":
        words = ["python", "-m", "mmbert.cli", *words[1:]]
    _, _, module, *arguments = words
    run = _run_in_a_process if example.name in _STARTS_TRAINING else _run_here
    status = run(_MAINS.get(module, module), arguments, variables, monkeypatch)
    stderr = Path("stderr.txt").read_text(encoding="utf-8")
    printed = stderr[stderr.index("error") :].rstrip("\n")
    made = [json.loads(line) for line in Path("made.txt").read_text().splitlines()]
    kind = next(name for name, message in made if printed.startswith(f"error: {message}\n"))
    return Outcome(kind, printed, status)


def _split(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a command into the variables set before it and its words."""
    words = shlex.split(command)
    variables = {}
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        variables[name] = value
    return variables, words


def _run_here(
    module: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(UserError, "__init__", _recording(UserError.__init__))
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    # One core: preprocessing starts no other worker.
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    handler = signal.getsignal(signal.SIGTERM)
    with (
        Path("stderr.txt").open("w", encoding="utf-8") as stderr,
        contextlib.redirect_stderr(stderr),
        contextlib.redirect_stdout(io.StringIO()),
        pytest.raises(SystemExit) as leaving,
    ):
        importlib.import_module(module).main()
    signal.signal(signal.SIGTERM, handler)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def _run_in_a_process(
    module: str,
    arguments: Sequence[str],
    variables: Mapping[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> int:
    process = rank_server().Process(
        target=_program, args=(module, arguments, variables, Path.cwd(), free_port())
    )
    process.start()
    process.join(60)
    process.kill()
    assert process.exitcode is not None
    return process.exitcode


def _program(
    module: str, arguments: Sequence[str], variables: Mapping[str, str], folder: Path, port: int
) -> None:
    become_rank(0, 1, port)
    os.environ.update(variables)
    os.chdir(folder)
    for name, number in (("stdout.txt", 1), ("stderr.txt", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT, 0o644), number)
    with mock.patch.object(UserError, "__init__", _recording(UserError.__init__)):
        sys.argv = [module, *arguments]
        importlib.import_module(module).main()


def _recording(original: Callable[..., None]) -> Callable[..., None]:
    """Note kind and message of every error in made.txt."""

    def initialize(error: UserError, message: str, *, remedy: str) -> None:
        original(error, message, remedy=remedy)
        kinds = [cls for cls in type(error).__mro__ if cls.__module__ == UserError.__module__]
        with Path("made.txt").open("a") as file:
            file.write(json.dumps([kinds[0].__name__, message]) + "\n")

    return initialize


def _one_file_without_a_language(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("my_corpus")
    shutil.rmtree("my_shards")
    Path("my_corpus").mkdir()
    Path("my_corpus/notes.txt").write_text("The river runs past the old town.\n")


def _change_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("my_shards/text/eng_Latn/train-00000.bin")
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)


def _start_without_srun(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    return {"SLURM_JOB_ID": "812", "SLURM_PROCID": "0", "SLURM_NTASKS": "16"}


def _truncate_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("my_run/checkpoints/step-00000018/rank-00000.safetensors")
    os.truncate(path, path.stat().st_size - 100)
    shutil.rmtree("my_model")


def _write_a_bert(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("bert-base").mkdir()
    Path("bert-base/config.json").write_text(json.dumps({"model_type": "bert"}))


def _write_aligned_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("eng_Latn.tsv").write_text("1\tThe river\n2\tThe town\n")
    Path("swh_Latn.tsv").write_text("1\tMto\n2 Mji\n")


def _write_another_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gemma.model").write_bytes(b"another tokenizer")


def _remove_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)


def _remove_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree("my_run")


_PREPARE: dict[str, Callable[[pytest.MonkeyPatch], dict[str, str] | None]] = {
    "TextError": _one_file_without_a_language,
    "TokenizerError": _write_another_tokenizer,
    "ShardsError": _change_a_byte,
    "LauncherError": _start_without_srun,
    "CheckpointError": _truncate_a_checkpoint,
    "ModelError": _write_a_bert,
    "EvaluationDataError": _write_aligned_sentences,
    "PackageError": _remove_datasets,
    "DivergenceError": _remove_the_run,
}
"""What a command needs beside the files of `NAMES`; returns environment variables, if any."""
