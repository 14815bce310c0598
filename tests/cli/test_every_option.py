"""Every option of every command with values at and beyond its ends, and with odd text and paths.

Whatever is wrong with the input ends with status 2 and one message with a remedy: no traceback, no
other status, and nothing that makes no sense is accepted in silence.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.models import ArgumentInfo, OptionInfo
from typer.utils import get_params_from_function

from tests.support.command_lines import (
    CALLS,
    Outcome,
    Parameter,
    call,
    commands,
    registered,
    words_of,
    write_inputs,
)

NUMBERS = (int, float, object)
NOT_NUMBERS = ["nan", "inf", "-inf", "-1", "1e400", "9" * 30, "", " ", "x", "0x10", "１.５.2"]
ZERO_IS_FINE = {
    "document", "step", "profile_steps", "local_rank", "heldout_share", "tokenizer_temperature",
    "maximum_rejected_fraction", "maximum_unread_fraction", "maximum_without_language_fraction",
}  # fmt: skip
# What an option needs beside it to have a meaning.
BESIDE: dict[tuple[str, str], dict[str, list[str]]] = {
    ("mmbert inspect", "document"): {"language": ["eng_Latn"]},
    ("mmbert inspect", "step"): {"path": ["run"], "data": ["shards"]},
    ("mmbert inspect", "data"): {"path": ["run"], "step": ["1"]},
    ("mmbert inspect", "source_text"): {"verify": [""]},
    ("mmbert merge", "density"): {"method": ["ties"], "base": ["model"]},
    ("mmbert merge", "decay"): {"method": ["ema"]},
    ("mmbert evaluate", "train"): {"test": ["train.tsv"]},
}
ODD_TEXT = ["", " ", "\n", "[/red]", "\udcff", "../x", "x" * 300]
FREE_TEXT = {"sentences", "overrides", "preprocess", "preprocess_old"}
NAMES = {"recipe", "sizes", "gpu", "phase", "variant", "stop_after_phase", "only", "until", "dtype",
         "method", "initialization", "initialisation", "text_unit", "fast_encoder", "normalization",
         "name", "merge", "equal", "search", "variation"}  # fmt: skip
"""Options whose value is one of a few names: all odd text is refused."""
ODD_PATHS = ["missing", "missing/deeper", "recipe.yaml", "recipe.yaml/below", "empty", "run",
             "shards", "model", "corpus", "run/checkpoints", "loop", "binary", "new\nline",
             "[bold] x[", "bad\udcff", "n" * 300, "", " "]  # fmt: skip
# Inputs -> what they may be; everything else is refused.
INPUTS = {
    "data": {"shards"},
    "path": {"shards", "run"},
    "run": {"run"},
    "folders": {"run", "shards"},
    "checkpoint": {"run", "model"},
    "model": {"run", "model"},
    "models": {"run", "model"},
    "base": {"run", "model"},
    "state": set(),
    "tokenizer": {"model"},
    "tokenizer_files": set(),
    "retrieval": set(),
    "train": set(),
    "test": set(),
    "variations": set(),
    "decontaminate": {"recipe.yaml", "binary"},
}
SLOW = {"mmbert import", "mmbert report", "mmbert evaluate", "mmbert merge", "mmbert export",
        "mmbert ablate", "mmbert decay", "mmbert fill-mask", "mmbert tune"}  # fmt: skip

NOTHING_WITHOUT_YES = {"mmbert fault-drill"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("options")
    write_inputs(place)
    (place / "empty").mkdir()
    (place / "loop").symlink_to("loop")
    (place / "binary").write_bytes(bytes(range(256)) * 9)
    (place / "train.tsv").write_text("a\tgood\nb\tbad\n")
    for name in ("new\nline", "[bold] x["):
        (place / name).mkdir()
    os.mkdir(os.fsencode(place) + b"/bad\xff")
    return place


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = set(os.listdir("."))
    yield
    for name in set(os.listdir(".")) - before:
        shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)


def _with(name: str, parameter: Parameter, value: str) -> Outcome:
    """Call command `name` with one parameter set to `value`."""
    values = CALLS[name] | BESIDE.get((name, parameter.name), {})
    values |= {parameter.name: [value, "run"] if parameter.name == "models" else [value]}
    for made in ("out", "out.html"):
        shutil.rmtree(made, ignore_errors=True)
    return call(name, words_of(name, values))


def _faults(
    name: str, parameter: Parameter, outcomes: dict[str, tuple[Outcome, bool]]
) -> list[str]:
    """Describe the outcomes that are not as expected: (outcome, whether it must be refused)."""
    found = []
    for value, (outcome, wrong) in outcomes.items():
        if outcome.traceback or outcome.status not in (0, 2):
            found.append(f"{name} {parameter.name}={value!r}: {outcome}")
        elif outcome.status == 2 and not outcome.refused:
            found.append(f"{name} {parameter.name}={value!r}: no remedy: {outcome.stderr[-300:]}")
        elif outcome.status == 0 and wrong:
            found.append(f"{name} {parameter.name}={value!r}: accepted")
    return found


def _parameters(*kinds: type) -> list[tuple[str, Parameter]]:
    return [
        (name, parameter)
        for name, parameters in commands().items()
        for parameter in parameters
        if parameter.kind in kinds
    ]


def _ids(value: object) -> str:
    return value.name if isinstance(value, Parameter) else str(value)


def test_every_command_is_called() -> None:
    assert set(CALLS) == set(commands())
    assert sum(map(len, commands().values())) > 100


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[pytest.mark.long] * (n in SLOW))
        for n in CALLS
        if n not in NOTHING_WITHOUT_YES
    ],
)
def test_the_call_of_a_command_works(name: str) -> None:
    outcome = call(name, words_of(name, CALLS[name]))
    assert outcome.status == 0, outcome


@pytest.mark.parametrize(("name", "parameter"), _parameters(*NUMBERS), ids=_ids)
def test_what_is_not_a_number_of_the_range_is_refused(name: str, parameter: Parameter) -> None:
    values = [*NOT_NUMBERS, *([] if parameter.name in ZERO_IS_FINE else ["0"])]
    if name == "mmbert import" and parameter.name == "tokens":
        values.remove("0")
    outcomes = {value: (_with(name, parameter, value), True) for value in values}
    assert not _faults(name, parameter, outcomes)


def test_integers_have_both_ends() -> None:
    """Those of preprocessing are in its settings."""
    for name, callback in registered().items():
        for key, meta in get_params_from_function(callback).items():
            info = meta.default
            whole = {"int", "int | None", "list[int] | None"}
            described = getattr(meta.annotation, "__name__", str(meta.annotation))
            if (
                name != "prep"
                and described in whole
                and isinstance(info, ArgumentInfo | OptionInfo)
            ):
                bounded = info.min is not None and info.max is not None
                assert bounded or info.parser is not None, f"{name} {key}"


@pytest.mark.parametrize(
    ("name", "option", "accepted", "refused"),
    [
        ("mmbert plan", "mfu", ["1", "0.001"], ["1.001", "0", "-0.1"]),
        ("mmbert plan", "utilisation", ["1"], ["1.001", "0"]),
        ("mmbert plan", "gpus", ["4"], ["1000001", "1.5"]),
        ("mmbert ablate", "seeds", ["2"], ["101"]),
        ("mmbert ablate", "mask_ratio", ["0.01", "0.99"], ["0.0099", "0.991", "1"]),
        ("mmbert ablate", "threshold", ["0.001", "100"], ["0", "100.1"]),
        ("mmbert tune", "most", ["3", "100"], ["2", "101"]),
        ("mmbert tune", "tokens", ["1", "1k"], ["0", "1.5"]),
        ("mmbert decay", "workers", ["4096"], ["4097"]),
        ("mmbert decay", "tokens", [], ["0", "-1", "1.5"]),
        ("mmbert inspect", "document", ["0"], ["1000000"]),
        ("mmbert inspect", "step", ["0"], ["1000000"]),
        ("mmbert fill-mask", "top", ["1", "1000"], ["0", "1001"]),
        ("pretrain", "profile_steps", ["0", "1000"], ["1001"]),
        ("prep", "heldout_share", ["0", "0.999"], ["1", "1.0", "1.5"]),
        ("prep", "maximum_rejected_fraction", ["0", "1"], ["1.001"]),
        ("prep", "tokenizer_temperature", ["0", "1"], ["1.001"]),
        ("prep", "vocabulary_size", ["300"], ["299"]),
        ("prep", "workers", ["1"], ["4097"]),
        ("prep", "contexts", ["3"], ["2", "2147483648"]),
        ("prep", "decontaminate_ngram", ["4", "1000"], ["3", "1001"]),
        ("prep", "minimum_characters", ["1"], ["0"]),
        ("prep", "maximum_bytes", ["1000", "1k"], ["999"]),
        ("prep", "shard_tokens", ["1000"], ["999"]),
        ("prep", "unit_bytes", ["1000"], ["999"]),
        ("prep", "tokenizer_sample_bytes", ["10k"], ["9999"]),
        ("prep", "maximum_tokens_per_language", ["1"], ["0"]),
    ],
)
def test_the_ends_of_a_range(
    name: str, option: str, accepted: list[str], refused: list[str]
) -> None:
    (parameter,) = (one for one in commands()[name] if one.name == option)
    for value in accepted:
        outcome = _with(name, parameter, value)
        assert outcome.status == 0, f"{value}: {outcome}"
    outcomes = {value: (_with(name, parameter, value), True) for value in refused}
    assert not _faults(name, parameter, outcomes)


@pytest.mark.long
@pytest.mark.parametrize(
    ("option", "accepted", "refused"),
    [
        ("density", ["1", "0.001"], ["1.001", "0"]),
        ("decay", ["0.001", "0.999"], ["0", "1"]),
        ("weight", [], ["0", "-1", "1"]),
    ],
)
def test_the_ends_of_a_merge(option: str, accepted: list[str], refused: list[str]) -> None:
    test_the_ends_of_a_range("mmbert merge", option, accepted, refused)


def _text_parameters() -> list[tuple[str, Parameter]]:
    kinds = {parameter.kind for parameters in commands().values() for parameter in parameters}
    return _parameters(*kinds - {*NUMBERS, bool, Path})


@pytest.mark.parametrize(("name", "parameter"), _text_parameters(), ids=_ids)
def test_odd_text(name: str, parameter: Parameter) -> None:
    wrong = set(ODD_TEXT) if parameter.name in NAMES else {"", " "}
    if parameter.name in FREE_TEXT:
        wrong = set()
    outcomes = {value: (_with(name, parameter, value), value in wrong) for value in ODD_TEXT}
    assert not _faults(name, parameter, outcomes)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        pytest.param(name, parameter, marks=[pytest.mark.long] * (name in SLOW))
        for name, parameter in [
            *_parameters(Path),
            *(pair for pair in _text_parameters() if pair[1].name in {"recipe", "input", "model"}),
        ]
    ],
    ids=_ids,
)
def test_odd_paths(name: str, parameter: Parameter) -> None:
    right = set(ODD_PATHS)
    if parameter.name in INPUTS and name != "mmbert decay":
        right = INPUTS[parameter.name]
    elif parameter.name in {"recipe", "sizes"}:
        right = {"recipe.yaml"}
    outcomes = {value: (_with(name, parameter, value), value not in right) for value in ODD_PATHS}
    for blank in ("", " "):
        outcomes[blank] = (outcomes[blank][0], True)
    assert not _faults(name, parameter, outcomes)


VARIABLES = {
    "RANK": {"WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"},
    "WORLD_SIZE": {"RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29501"},
    "MASTER_PORT": {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost"},
    "LOCAL_RANK": {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "a", "MASTER_PORT": "29501"},
    "SLURM_PROCID": {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "1"},
    "SLURM_NTASKS": {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    "SLURM_STEP_NUM_TASKS": {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    "SLURM_LOCALID": {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    "SLURM_JOB_ID": {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    "SLURM_STEP_ID": {"SLURM_PROCID": "0"},
    "SLURM_STEP_NODELIST": {"SLURM_PROCID": "0", "SLURM_STEP_ID": "0"},
    "OMPI_COMM_WORLD_RANK": {"OMPI_COMM_WORLD_SIZE": "1"},
    "OMPI_COMM_WORLD_SIZE": {"OMPI_COMM_WORLD_RANK": "0"},
    "OMPI_COMM_WORLD_LOCAL_RANK": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"},
    "PMI_RANK": {"PMI_SIZE": "1"},
    "PMI_SIZE": {"PMI_RANK": "0"},
}
ODD_VARIABLES = ["-1", "x", "1e3", "²", "9" * 30, "nan", "1 2"]
# A step id may be a word, and a list of nodes is any text.
OF_TRAINING = set(VARIABLES) - {"SLURM_STEP_ID", "SLURM_STEP_NODELIST"}
OF_PREPROCESSING = {"SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"}


@pytest.mark.parametrize("name", ["pretrain", "prep"])
@pytest.mark.parametrize("variable", VARIABLES)
def test_odd_variables_of_launchers(name: str, variable: str) -> None:
    """Preprocessing is given an empty folder: it looks at them before it looks for text."""
    values = CALLS[name] | ({"input": ["empty"], "dry_run": []} if name == "prep" else {})
    words = words_of(name, values)
    for value in ("", " ", *ODD_VARIABLES):
        outcome = call(name, words, **VARIABLES[variable], **{variable: value})
        assert not outcome.traceback, f"{variable}={value!r}: {outcome}"
        assert outcome.refused or outcome.status == 0, f"{variable}={value!r}: {outcome}"
        if value.strip() and variable in (OF_PREPROCESSING if name == "prep" else OF_TRAINING):
            assert variable in outcome.stderr, f"{variable}={value!r}: {outcome}"
