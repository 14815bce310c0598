"""MDS repositories in the structure in which mmBERT's are published."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import zstandard

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import read_manifest
from mmbert.errors import UserError
from mmbert_prep.dry_run import list_input
from mmbert_prep.readers.discovery import discover
from mmbert_prep.shards.verify import verify_source
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.hub_mds_tree import (
    FIXTURES,
    REAL,
    SAMPLED,
    TEXT,
    write_hub_tree,
)
from tests.support.mds_shards import array, write_mds
from tests.support.ranks import run_ranks
from tests.support.small_run import RECIPE, RunOptions, pretrain_rank, step_losses
from tests.support.texts import documents, run, settings

# From mds/write.py, which cannot be imported without mosaicml-streaming.
LENGTHS = (1, 7, 255, 256, 300, 70_000)
GERMAN = [((np.arange(n) * 31 + i * 389) % 1000 + 5).tolist() for i, n in enumerate(LENGTHS)]
GREEK = [[300 + number % 50] * (5 + number) for number in range(80)]
INDONESIAN = documents("ind_Latn", 80)
PHASE = """
phases:
  - {name: decay, tokens: 3k, context: 64, languages: all, temperature: 0.3, mask_ratio: 0.05,
     rotary_bases: {global: 160000, local: 160000}}
data:
  sources:
    - {name: text, sampling: temperature, tokens: {decay: 2}}
    - {name: arxiv, sampling: budget, tokens: {decay: 1}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the repository `repo`, and the tokenizer of its tokens in `old`."""
    folder = tmp_path_factory.mktemp("hub_mds")
    write_hub_tree(folder / "repo", GREEK, INDONESIAN)
    for language in ("eng_Latn", "rus_Cyrl", "hin_Deva", "ind_Latn"):
        (folder / "text").mkdir(exist_ok=True)
        (folder / "text" / f"{language}.txt").write_text("\n\n".join(documents(language, 80)))
    run(folder / "text", folder / "old", vocabulary_size=1100)
    return folder


@pytest.fixture(scope="module")
def shards(work: Path) -> Path:
    """Shards of the repository, and those of a source without a language by a run of its own."""
    tokenizer = {"tokenizer": work / "old" / "tokenizer", "vocabulary_size": None}
    contexts = {"contexts": (64, 128)}
    run(work / "repo", work / "shards", **tokenizer, **contexts)
    named = {"language": "eng_Latn", "source": "arxiv"}
    run(work / "repo" / "train" / "arxiv", work / "shards", **tokenizer, **contexts, **named)
    return work / "shards"


def stored(folder: Path) -> list[list[int]]:
    manifest = read_manifest(folder)
    return [
        dataset.document(number).tolist()
        for shard in (*manifest.train.shards, *manifest.heldout.shards)
        for dataset in [IndexedDataset(folder / shard.name)]
        for number in range(len(dataset))
    ]


def test_samples_have_the_bytes_of_the_real_writer(tmp_path: Path) -> None:
    packed = (FIXTURES / "uint32_zstd" / "shard.00000.mds.zstd").read_bytes()
    real = zstandard.ZstdDecompressor().decompressobj().decompress(packed)
    samples = []
    for number, ids in enumerate(GERMAN):
        # One byte per length below 256, as numpy chooses; `array` always writes two or four.
        width = np.dtype(np.min_scalar_type(len(ids))).itemsize
        values = np.array(ids, dtype="<u4")
        head = bytes([1 << 2 | width.bit_length() - 1]) + len(ids).to_bytes(width, "little")
        encoded = array(values, True) if width == 2 else head + values.tobytes()
        samples.append({"id": f"document {number}".encode(), "input_ids": encoded})
    ours = write_mds(tmp_path / "a.mds", samples, {"id": "str", "input_ids": "ndarray:uint32"})

    def body(shard: bytes) -> bytes:
        return shard[int.from_bytes(shard[4:8], "little") :]

    assert body(ours) == body(real)


def test_languages_and_descriptions(work: Path) -> None:
    found = discover(settings(work / "repo", work / "out"))
    languages = {
        str(Path(file.path).parent.relative_to(work / "repo")): (file.format, file.language)
        for file in found.files
    }
    assert languages == {
        REAL: ("mds", "deu_Latn"), SAMPLED: ("mds", "ell_Grek"), TEXT: ("mds", "ind_Latn"),
    }  # fmt: skip
    counts = {reason: len(names) for reason, names in found.ignored.items()}
    assert counts == {
        "above MDS shards": 3 * 9 + 1,
        "beside MDS shards": 1 + 3 * 3 + 1,
        "hidden": 1,
        "mds whose path names no language": 2,
        "unknown kind of file '.md'": 1,
    }
    assert found.without_language == ["train/arxiv", "train/books"]
    output = io.StringIO()
    with redirect_stdout(output):
        list_input(settings(work / "repo", work / "out"))
    assert (
        "--language (such as eng_Latn) and --source: train/arxiv, train/books" in output.getvalue()
    )


def test_sums_equal_what_was_written(work: Path, shards: Path) -> None:
    written = {"deu_Latn": GERMAN, "ell_Grek": GREEK}
    for language, tokens in written.items():
        manifest = read_manifest(shards / "text" / language)
        assert manifest.documents_read == len(tokens)
        assert manifest.train.tokens + manifest.heldout.tokens == sum(map(len, tokens))
        assert sorted(stored(shards / "text" / language)) == sorted(tokens)
    encoder = open_encoder(shards / "tokenizer")
    texts = [encoder.decode(ids) for ids in stored(shards / "text" / "ind_Latn")]
    assert sorted(texts) == sorted(INDONESIAN)
    assert sorted(stored(shards / "arxiv" / "eng_Latn")) == sorted(GREEK)
    assert sorted(path.name for path in (shards / "text").glob("*_*")) == [
        "deu_Latn", "ell_Grek", "ind_Latn",
    ]  # fmt: skip
    checked = verify_source(shards / "text", str(work / "repo"))
    assert [check.errors for check in checked.values()] == [[], [], []]


def test_only_sources_without_a_language(work: Path, tmp_path: Path) -> None:
    path = work / "repo" / "train" / "arxiv"
    with pytest.raises(UserError, match="mds whose path names no language: 1") as caught:
        discover(settings(path, tmp_path / "out"))
    assert "name the language with --language" in caught.value.remedy
    (tmp_path / "repo" / "train").mkdir(parents=True)
    for folder in ("train/arxiv", "train/books"):
        (tmp_path / "repo" / folder).symlink_to(work / "repo" / folder)
    with pytest.raises(UserError) as caught:
        discover(settings(tmp_path / "repo", tmp_path / "out"))
    assert caught.value.remedy.endswith("and --source: train/arxiv, train/books")


@pytest.mark.parametrize(
    ("folder", "language"),
    [
        ("deu_Latn-tokenized-chunked-8192", "deu_Latn"),
        ("deu_Latn_train-sampled", "deu_Latn"),
        ("ind_Latn_train", "ind_Latn"),
        ("deu_Latn-x/ell_Grek_train/batch_0222-tokenized", "ell_Grek"),
        ("deu_Latn-x/arxiv-x", "deu_Latn"),
        ("arxiv-tokenized", None),
        ("qqq_Latn-tokenized", None),  # no language that the project knows
        ("swh_Latn_removed", None),  # documents that FineWeb2 threw out
        ("eng_Latn-swh_Latn", None),  # bitext
        ("deu_Latn_training-sets", None),
        ("xdeu_Latn-tokenized", None),
    ],
)
def test_language_at_the_start_of_a_folder(
    folder: str, language: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "in" / folder / "a.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"text": "a"}\n')
    [file] = discover(settings(tmp_path / "in", tmp_path / "out")).files
    assert file.language == language
    [file] = discover(settings(path.parent, tmp_path / "out")).files
    assert file.language == (language if "/" not in folder else None)


def test_json_lines_elsewhere_are_read(work: Path, tmp_path: Path) -> None:
    """Names of descriptions mean nothing where no shards are, nor others above shards."""
    write_hub_tree(tmp_path / "in" / "mds", GREEK, INDONESIAN)
    for name in ("web/eng_Latn/stats.json", "mds/eng_Latn.json", "mds/train/x/eng_Latn/index.json"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text('{"text": "a"}\n')
    found = discover(settings(tmp_path / "in", tmp_path / "out"))
    read = [file.path for file in found.files if file.format == "jsonl"]
    assert [str(Path(path).relative_to(tmp_path / "in")) for path in read] == [
        "mds/eng_Latn.json", "mds/train/x/eng_Latn/index.json", "web/eng_Latn/stats.json",
    ]  # fmt: skip


def test_the_first_steps_of_a_run(shards: Path, tmp_path: Path) -> None:
    recipe = RECIPE.split("phases:")[0] + PHASE
    (tmp_path / "recipe.yaml").write_text(recipe)
    options = RunOptions(tmp_path / "recipe.yaml", shards, tmp_path / "run")
    assert run_ranks(pretrain_rank, 1, options) == {0: 0}
    losses = step_losses(tmp_path / "run")
    assert sorted(losses) == [1, 2, 3]
    assert all(np.isfinite(loss) for loss in losses.values())
