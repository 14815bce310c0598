"""Text under a run that was exchanged since: refused by language; what changes nothing goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmbert.data.loading.data_state import DataState, planned_state
from mmbert.data.loading.loader import RowLoader
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.data.shards.data_identity import data_identity
from mmbert.data.shards.file_sizes import check_file_sizes
from mmbert.data.shards.manifest import read_manifest, write_manifest
from mmbert.errors import ResumeError, ShardsError
from mmbert.schedule import training_plan
from tests.support.corpora import write_corpus, write_language
from tests.support.recipes import phase, small_recipe
from tests.support.row_reading import assert_same, read_in_lockstep

LENGTHS = {"aaa_Latn": [30, 200] * 40, "bbb_Latn": [50] * 90, "ccc_Latn": [70] * 50}
RECIPE = small_recipe(
    phase("a", 256 * 6 * 3, languages=["aaa", "bbb"]),
    phase("b", 256 * 6 * 3, context=32, languages="all"),
    row_tokens=256,
    rows=6,
    quantum=6,
)
PLAN = training_plan(RECIPE)
CONTEXTS = [32, 64]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    write_corpus(root, {"web": LENGTHS}, contexts=CONTEXTS, heldout=[9, 8])
    return root


def state_after(shards: Path, steps: int) -> DataState:
    """Return the state of a run after some steps, as a checkpoint holds it."""
    _, state = read_in_lockstep(open_corpus(shards), RECIPE, PLAN, 2, stop=steps)
    restored: DataState = json.loads(json.dumps(state))
    return restored


def resume(shards: Path, state: DataState) -> RowLoader:
    return RowLoader(open_corpus(shards), RECIPE, PLAN, state=state, first_step=state["step"])


def rewrite(shards: Path, language: str, **changes: Any) -> None:
    """Preprocess a language again, with other text of the same sizes unless `number` is equal."""
    arguments: dict[str, Any] = {"contexts": CONTEXTS, "heldout": [9, 8], "number": 77}
    lengths = changes.pop("lengths", LENGTHS[language])
    shutil.rmtree(shards / "web" / language)
    write_language(shards, "web", language, lengths, **(arguments | changes))


def other_heldout(shards: Path) -> None:
    """Exchange the held-out shards alone."""
    folder = shards / "web/aaa_Latn"
    before = read_manifest(folder)
    rewrite(shards, "aaa_Latn")
    now = read_manifest(folder)
    write_manifest(folder, now.model_copy(update={"train": before.train}))


def other_index(shards: Path, context: int) -> None:
    """Exchange the piece index of a context by one with as many entries."""
    folder = shards / "web/aaa_Latn"
    manifest = read_manifest(folder)
    entry = manifest.train.pieces[context].model_copy(update={"xxh3_128": "0" * 32})
    pieces = manifest.train.pieces | {context: entry}
    train = manifest.train.model_copy(update={"pieces": pieces})
    write_manifest(folder, manifest.model_copy(update={"train": train}))


def move(shards: Path) -> None:
    """Rename the folder, and put it back as a link."""
    shards.rename(shards.with_name("elsewhere"))
    shards.symlink_to(shards.with_name("elsewhere"))


Change = Callable[[Path], object]
REFUSED: dict[str, tuple[Change, str]] = {
    "other text of the same sizes": (lambda s: rewrite(s, "aaa_Latn"), "web/aaa_Latn"),
    "two languages": (
        lambda s: [rewrite(s, name) for name in ("aaa_Latn", "bbb_Latn")],
        "web/aaa_Latn, web/bbb_Latn",
    ),
    "documents in another order": (
        lambda s: rewrite(s, "aaa_Latn", lengths=[200, 30] * 40, number=0),
        "web/aaa_Latn",
    ),
    "truncated": (lambda s: rewrite(s, "bbb_Latn", lengths=[50] * 89, number=1), "web/bbb_Latn"),
    "other held-out text": (other_heldout, "web/aaa_Latn"),
    "other pieces": (lambda s: other_index(s, 64), "piece indexes of web/aaa_Latn"),
}
ALLOWED: dict[str, Change] = {
    "a moved folder": move,
    "made again with equal bytes": lambda s: rewrite(s, "aaa_Latn", number=0),
    "the index of another context": lambda s: other_index(s, 32),
    "an index of one more context": lambda s: rewrite(
        s, "aaa_Latn", number=0, contexts=[16, *CONTEXTS]
    ),
    "a language of a phase to come": lambda s: rewrite(s, "ccc_Latn"),
    "fewer texts for a phase to come": lambda s: rewrite(s, "ccc_Latn", lengths=[70] * 49),
    "one more language for a phase to come": lambda s: write_language(
        s, "web", "ddd_Latn", [40] * 60, contexts=CONTEXTS
    ),
    "no index of another context": lambda s: (s / "web/aaa_Latn/pieces-32.npy").unlink(),
}


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards, tmp_path / "copy"))


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("change", REFUSED)
def test_other_text_is_refused_by_language(copy: Path, change: str, steps: int) -> None:
    state = state_after(copy, steps) if steps else planned_state(open_corpus(copy), RECIPE, PLAN, 1)
    apply, named = REFUSED[change]
    apply(copy)
    with pytest.raises(ResumeError) as refused:
        resume(copy, state)
    assert f"{named} in {copy} are not those that the run was trained on" in refused.value.message
    assert "put back the shards" in refused.value.remedy


@pytest.mark.parametrize("change", ALLOWED)
def test_what_changes_nothing_goes_on(copy: Path, change: str) -> None:
    rows, _ = read_in_lockstep(open_corpus(copy), RECIPE, PLAN, 1, stop=3)
    state = state_after(copy, 2)
    ALLOWED[change](copy)
    check_file_sizes(open_corpus(copy), {"web"}, 64)
    loader = resume(copy, state)
    for before, row in zip(rows[12:18], loader, strict=False):
        assert_same(before, row)


def test_a_language_of_an_ended_phase_still_counts(copy: Path) -> None:
    """Text of the second phase was drawn beside what is left of the first phase's."""
    state = state_after(copy, 4)
    rewrite(copy, "ccc_Latn")
    with pytest.raises(ResumeError, match="shards of web/ccc_Latn in"):
        resume(copy, state)


def test_lost_and_added_languages_are_named(copy: Path) -> None:
    state = state_after(copy, 4)
    shutil.rmtree(copy / "web/bbb_Latn")
    write_language(copy, "web", "ddd_Latn", [40] * 60, contexts=CONTEXTS)
    with pytest.raises(ResumeError, match="another order of data: web/bbb_Latn missing"):
        resume(copy, state)
    write_language(copy, "web", "bbb_Latn", LENGTHS["bbb_Latn"], contexts=CONTEXTS, number=1,
                   heldout=[9, 8])  # fmt: skip
    with pytest.raises(ResumeError, match=r"phase 'b' .* data: web/ddd_Latn added since"):
        resume(copy, state)


def test_many_languages_are_counted(tmp_path: Path) -> None:
    names = [f"{first}{second}a_Latn" for first in "abcd" for second in "abcde"]
    recipe = small_recipe(phase("a", 256 * 6 * 3), row_tokens=256, rows=6, quantum=6)
    plan = training_plan(recipe)

    def corpus(name: str, first: int) -> Corpus:
        lengths = {language: [60] * 20 for language in names[first:] + names[:first]}
        return write_corpus(tmp_path / name, {"web": lengths}, contexts=[64])

    _, state = read_in_lockstep(corpus("one", 0), recipe, plan, 1, stop=1)
    with pytest.raises(ResumeError, match=r"web/aaa_Latn, .*, web/bca_Latn and 12 more in"):
        RowLoader(corpus("two", 1), recipe, plan, state=state, first_step=1)


def test_a_state_of_an_earlier_version_is_compared_by_sizes(copy: Path) -> None:
    state = state_after(copy, 2)
    del state["checksums"], state["indexes"]
    rewrite(copy, "aaa_Latn")
    now = resume(copy, state).state_after(1)
    assert now["checksums"] == data_identity(open_corpus(copy), 64)["checksums"]
    rewrite(copy, "aaa_Latn", lengths=[30, 201] * 40)
    with pytest.raises(ResumeError, match="mixture or the shards have changed"):
        resume(copy, state)


@pytest.mark.parametrize("name", ["train-00000.bin", "train-00000.idx", "heldout-00000.bin"])
def test_a_file_of_another_size_is_named(copy: Path, name: str) -> None:
    corpus, path = open_corpus(copy), copy / "web/bbb_Latn" / name
    check_file_sizes(corpus, {"web"}, 64)
    size = path.stat().st_size
    for change, said in (
        (lambda: path.write_bytes(path.read_bytes()[:-1]), f"has {size - 1:,} bytes"),
        (lambda: path.write_bytes(path.read_bytes() + b"12"), f"has {size + 1:,} bytes"),
        (path.unlink, "is listed in the manifest but missing"),
    ):
        change()
        with pytest.raises(ShardsError) as refused:
            check_file_sizes(corpus, {"web"}, 64)
        assert refused.value.message.startswith(f"{path} {said}")
    check_file_sizes(corpus, {"wiki"}, 64)  # not read by the run
    shares = [(rank, ranks) for ranks in (2, 3) for rank in range(ranks)]
    for rank, ranks in shares:
        if 1 % ranks == rank:
            with pytest.raises(ShardsError):
                check_file_sizes(corpus, {"web"}, 64, rank=rank, ranks=ranks)
        else:
            check_file_sizes(corpus, {"web"}, 64, rank=rank, ranks=ranks)


def test_a_missing_index_and_several_files_are_counted(copy: Path) -> None:
    corpus = open_corpus(copy)
    (copy / "web/aaa_Latn/pieces-64.npy").unlink()
    with pytest.raises(
        ShardsError, match=r"pieces-64\.npy is listed in the manifest but missing\n"
    ):
        check_file_sizes(corpus, {"web"}, 64)
    shutil.rmtree(copy / "web/ccc_Latn")
    with pytest.raises(ShardsError, match=r"missing \(and 5 more files\)"):
        check_file_sizes(corpus, {"web"}, 64)
