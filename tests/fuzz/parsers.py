"""All parsers of files, options and variables, with sound inputs of each.

Left out: working files of a preprocessing in progress, which only the same run reads. The readers
of text files are in tests/data_prep/readers/test_fuzz.py; tests/data/shards/test_damage.py compares
what is read from damaged shards.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmbert.checkpoint.imported_state import read_imported_state
from mmbert.data.shards.corpus import open_corpus
from mmbert.data.shards.tokenizer_function import different_ids
from mmbert.decay.layout import DecayFolder
from mmbert.decay.request import recorded_request
from mmbert.evaluation.tsv import read_lines
from mmbert.hub.configuration import read_configuration
from mmbert.hub.importing.composer.import_checkpoint import (
    ComposerImportOptions,
    import_composer_checkpoint,
)
from mmbert.hub.importing.composer.reading import read_checkpoint
from mmbert.hub.model_source import open_model
from mmbert.hub.pickled_weights import read_pickled_weights
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.hub.weights import weight_files
from mmbert.journals.run_journal import NodeReport, StartEvent, read_records
from mmbert.model.initial_checkpoint import InitialCheckpoint
from mmbert.ownership.owner_file import read_owner_file
from mmbert.recipe import load_recipe
from mmbert.recipe.quantities import parse_quantity
from mmbert.report.run import read_run
from mmbert.report.shards.contents import read_contents
from mmbert.schedule import training_plan
from mmbert.training.fault_tolerance.loss_monitor import SkippedSteps
from mmbert.training.launch.deepspeed_launch import hostfile_argument
from mmbert.training.launcher_env import first_host, rank_info_from_env
from mmbert.training.metrics.results import Results
from mmbert.wheels.installed import read_list
from mmbert_prep.languages.overrides_file import read_language_map
from mmbert_prep.languages.resolution import resolve
from mmbert_prep.readers.where.parsing import parse_condition
from tests.support.checkpoint_index import write_signed_index
from tests.support.composer import EARLIER
from tests.support.environment import ROOT

KEPT = ROOT / "tests" / "fixtures" / "kept"


@dataclass(frozen=True)
class FileParser:
    """A parser of files in a folder."""

    name: str
    write: Callable[[Path], Sequence[Path]]
    """Writes sound inputs into a folder and returns the files to damage, one in each case."""
    read: Callable[[Path], object]
    """Reads everything in the folder."""
    after: Callable[[Path], None] = lambda path: None
    """Makes a damaged file consistent in itself, as its checksum."""
    share: float = 1.0
    """Part of the cases of other parsers, for one that takes long."""


@dataclass(frozen=True)
class TextParser:
    """A parser of a text."""

    name: str
    samples: tuple[str, ...]
    read: Callable[[str], object]
    raises: tuple[type[Exception], ...] = ()
    """What it raises besides errors for users; its callers convert it."""


def _copied(source: str, *names: str) -> Callable[[Path], Sequence[Path]]:
    """Copy a folder of the fixtures; the files `names` are damaged."""

    def write(folder: Path) -> Sequence[Path]:
        shutil.copytree(KEPT / source, folder, dirs_exist_ok=True)
        return [path for name in names for path in sorted(folder.glob(name))]

    return write


def _written(**files: str) -> Callable[[Path], Sequence[Path]]:
    """Write texts to files, whose names have a dot for each double underscore."""

    def write(folder: Path) -> Sequence[Path]:
        folder.mkdir(exist_ok=True)
        paths = []
        for name, text in files.items():
            paths.append(folder / name.replace("__", "."))
            paths[-1].write_text(text, encoding="utf-8")
        return paths

    return write


def _recipe(folder: Path) -> None:
    training_plan(load_recipe(folder / "recipe.yaml"))


def _shards(folder: Path) -> None:
    corpus = open_corpus(folder)
    for component in corpus.components:
        for context in component.manifest.train.pieces:
            corpus.continuation_index(component, context)
        for split in ("train", "heldout"):
            for number in range(int(component.starts(split)[-1])):
                corpus.document(component, split, number)
    read_contents(folder)


def _model(folder: Path) -> None:
    for _ in open_model(folder).items():
        pass


def _sign(path: Path) -> None:
    """Give a changed index of a checkpoint the checksum of its contents."""
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError):
        write_signed_index(path, json.loads(path.read_bytes()))


def _run(folder: Path) -> None:
    run = read_run(folder, "run")
    for part in (run.name, run.tokens, run.step, run.planned_steps, run.starts, run.train_tokens):
        str(part)
    for part in (run.phases, run.held_out, run.held_out_by_language, run.by_language):
        str(part)
    Results.read(folder)


def _tokenizer(folder: Path) -> None:
    tokenizer = FastTokenizer(folder)
    tokenizer.decode(tokenizer.encode_bytes(b" some text"))
    different_ids(folder, KEPT / "export")


def _pickled(folder: Path) -> Sequence[Path]:
    folder.mkdir(exist_ok=True)
    torch.save({"a.weight": torch.ones(3, 2), "b": torch.arange(4)}, folder / "pytorch_model.bin")
    return [folder / "pytorch_model.bin"]


def _weight_index(folder: Path) -> Sequence[Path]:
    (path,) = _written(model__safetensors__index__json=_WEIGHT_INDEX)(folder)
    for name in ("one.safetensors", "two"):
        (folder / name).touch()
    return [path]


def _composer(folder: Path) -> Sequence[Path]:
    folder.mkdir(exist_ok=True)
    return [Path(shutil.copy(EARLIER, folder / "state.pt"))]


def _import_composer(folder: Path) -> None:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    import_composer_checkpoint(folder / "state.pt", out, ComposerImportOptions())


def _initial(folder: Path) -> None:
    initial = InitialCheckpoint(folder)
    recipe = load_recipe(KEPT / "recipe.yaml")
    initial.check_model(recipe.model)
    initial.rotary_differences(recipe.phases[0].rotary_bases)
    ids = {"pad": 0, "begin": 2, "end": 1, "mask": 4, "unknown": 3}
    initial.check_tokenizer(KEPT / "export", ids)


def _imported(folder: Path) -> Sequence[Path]:
    import_composer_checkpoint(EARLIER, folder, ComposerImportOptions())
    return [folder / "training_state.json"]


def _read_imported(folder: Path) -> None:
    state = read_imported_state(folder)
    if state is not None:
        state.verify(folder)


_WEIGHT_INDEX = json.dumps({"metadata": {}, "weight_map": {"a": "one.safetensors", "b": "two"}})
_OWNER = json.dumps(
    {"host": "n1", "boot": "b", "pid": 7, "pid_namespace": "4", "started": "1", "token": "t" * 32,
     "since": 1.0}
)  # fmt: skip
_START = json.dumps(
    {"unix_time": 1.0, "job": "7", "hosts": ["n1"], "tasks": 2, "gpus": 0, "step": 3, "status": 1}
)
_NODE = json.dumps({"unix_time": 1.0, "host": "n1", "problem": "slow", "detail": "15%", "step": 3})
_DECAY = json.dumps(
    {"format": 1, "request": {"model": "m", "state": None, "onto": None, "input": "text",
     "merge": {"method": "none"}, "old": None, "languages": ["swh_Latn"], "tokens": 1000,
     "recipe": "your-decay", "recipe_checksum": "0", "overrides": [], "preprocess": [],
     "preprocess_old": []}}
)  # fmt: skip

FILE_PARSERS = (
    FileParser("recipe", _written(recipe__yaml=(KEPT / "recipe.yaml").read_text()), _recipe),
    FileParser(
        "packaged recipe",
        _written(recipe__yaml=(ROOT / "src/mmbert/recipes/mmbert-base.yaml").read_text()),
        _recipe,
    ),
    FileParser(
        "shards",
        _copied(
            "shards",
            "*/*/manifest.json",
            "*/*/*.idx",
            "*/*/*.npy",
            "*/*/*.bin",
            "*/summary.json",
            "tokenizer/description.json",
        ),
        _shards,
    ),
    FileParser(
        "checkpoint",
        _copied("run", "checkpoints/step-00000018/*"),
        lambda folder: _model(folder / "checkpoints" / "step-00000018"),
    ),
    FileParser(
        "checkpoint with the right checksum",
        _copied("run", "checkpoints/step-00000018/index.json"),
        lambda folder: _model(folder / "checkpoints" / "step-00000018"),
        after=_sign,
    ),
    FileParser("run", _copied("run", "log.jsonl", "results.json", "recipe.yaml"), _run),
    FileParser("model", _copied("export", "model.safetensors", "*.json"), _model),
    FileParser("configuration", _copied("export", "config.json"), read_configuration),
    FileParser("initial checkpoint", _copied("export", "config.json"), _initial),
    FileParser(
        "tokenizer",
        _copied("export", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
        _tokenizer,
    ),
    FileParser(
        "index of weights",
        _weight_index,
        weight_files,
    ),
    FileParser(
        "pickled weights",
        _pickled,
        lambda folder: read_pickled_weights(folder / "pytorch_model.bin"),
    ),
    FileParser("Composer's file", _composer, lambda folder: read_checkpoint(folder / "state.pt")),
    FileParser("Composer's state", _composer, _import_composer, share=0.1),
    FileParser("imported state", _imported, _read_imported),
    FileParser(
        "owner", _written(owner__json=_OWNER), lambda folder: read_owner_file(folder / "owner.json")
    ),
    FileParser(
        "journal of starts",
        _written(starts__jsonl=f"{_START}\n{_START}\n"),
        lambda folder: list(read_records(folder / "starts.jsonl", StartEvent)),
    ),
    FileParser(
        "journal of nodes",
        _written(nodes__jsonl=f"{_NODE}\n{_NODE}\n"),
        lambda folder: list(read_records(folder / "nodes.jsonl", NodeReport)),
    ),
    FileParser(
        "skipped steps",
        _written(skipped_steps__json=json.dumps({"steps": [12, 13], "rollbacks": 1})),
        SkippedSteps.read,
    ),
    FileParser(
        "record of a decay",
        _written(decay__json=_DECAY),
        lambda folder: recorded_request(DecayFolder(folder)),
    ),
    FileParser(
        "TSV",
        _written(examples__tsv="1\tone text\n2\tanother text\n"),
        lambda folder: list(read_lines(folder / "examples.tsv", "identifier")),
    ),
    FileParser(
        "language map",
        _written(map__txt="no: nob_Latn\n'pt BR'\tpor_Latn # text\n"),
        lambda folder: read_language_map(folder / "map.txt"),
    ),
    FileParser(
        "pip list",
        _written(pip__txt="torch==2.6.0\nnumpy  1.26.4\nx @ file:///w/x-1.0-py3-none-any.whl\n"),
        lambda folder: read_list(folder / "pip.txt"),
    ),
)


def _launched(text: str) -> object:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    values = dict(zip(names, text.split(","), strict=False))
    return rank_info_from_env({"MASTER_ADDR": "localhost", **values})


def _of_slurm(text: str) -> object:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID", "SLURM_JOB_ID", "SLURM_LOCALID")
    values = dict(zip(names, text.split(","), strict=False))
    return rank_info_from_env({"SLURM_STEP_NODELIST": "gpu[1-4]", **values})


TEXT_PARSERS = (
    TextParser(
        "override",
        ("phases.decay.mask_ratio=0.05", "batch.rows=8", "phases.0={name: a}", "seed=[1, {a: b}]"),
        lambda text: load_recipe(KEPT / "recipe.yaml", [text]),
    ),
    TextParser(
        "where",
        ("language_score >= 0.8", "a.b in ['x', 'y'] and not c == 1", "x is null or (y > -1e3)"),
        parse_condition,
    ),
    TextParser("language", ("pt_BR", "zh-Hans", "English", "eng_Latn", "sr-Latn-RS"), resolve),
    TextParser("quantity", ("2.3T", "600B", "1_000", "4.5k", "1e6"), parse_quantity, (ValueError,)),
    TextParser("node list", ("gpu[003-004,7],login", "n1,n2", "a[1-2]b[3]"), first_host),
    TextParser("variables of torchrun", ("0,2,0,29500", "1,8,1,1024"), _launched),
    TextParser("variables of Slurm", ("0,2,0,77,0", "3,8,4294967290,1,3"), _of_slurm),
    TextParser(
        "command of deepspeed",
        ("deepspeed -H hosts launch/pretrain.py", "deepspeed --hostfile=h --num_gpus 2 x.py"),
        lambda text: hostfile_argument(text.split()),
    ),
)
ALL_PARSERS = (*FILE_PARSERS, *TEXT_PARSERS)
