"""Near-duplicates: which documents stay, how many are found, and that nothing else decides."""

from __future__ import annotations

import math
import sys
import tracemalloc
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.data.shards.manifest import NearDuplicates, read_manifest
from mmbert.errors import PackageError, UserError
from mmbert_prep.filters.signatures import plan_near_duplicates
from mmbert_prep.readers import RejectReason
from mmbert_prep.shards import deduplicate_and_split, near_duplicates
from mmbert_prep.shards.intermediate import DOCUMENT_DTYPE, IntermediateWriter
from mmbert_prep.shards.near_duplicates import Signatures, mark_near_duplicates
from mmbert_prep.shards.report import report_rows
from mmbert_prep.shards.verify import verify_against_text, verify_source
from mmbert_prep.tokenization.encoders import open_encoder
from tests.support.similar_texts import ALPHABETS, TextMaker
from tests.support.texts import command_line, json_lines, run, tree

PLAN = NearDuplicates(
    threshold=0.5, permutations=12, bands=4, rows=3, matches=6, shingles="made", algorithm="made"
)
LEAST_MEMORY = 32_000_000


def _stored(folder: Path, values: np.ndarray, plan: NearDuplicates, units: int = 3) -> Signatures:
    """Write signatures as those of several work units."""
    folder.mkdir(exist_ok=True)
    sections = []
    for number, part in enumerate(np.array_split(values, units)):
        writer = IntermediateWriter(folder, f"unit-{number}", np.dtype(np.uint16), True)
        documents = np.zeros(len(part), dtype=DOCUMENT_DTYPE)
        documents["tokens"] = 1
        for start in range(0, len(part), 1000):
            some = documents[start : start + 1000]
            tokens = np.ones(len(some), dtype=np.uint16)
            writer.add("eng_Latn", tokens, some, part[start : start + 1000])
        sections += [(f"unit-{number}", section) for section in writer.finish().sections]
    return Signatures(folder, tuple(sections), plan)


def _by_definition(
    values: np.ndarray, used: np.ndarray, plan: NearDuplicates, common: int = 1000
) -> list[int]:
    """Return the dropped documents, comparing each one with all that were kept before it."""
    kept: list[int] = []
    dropped = []
    groups = values[:, : plan.bands * plan.rows].reshape(len(values), plan.bands, plan.rows)
    for place in np.flatnonzero(used).tolist():
        equal = values[kept] == values[place]
        bands = (groups[kept] == groups[place]).all(axis=2)
        crowded = (groups[used] == groups[place]).all(axis=2).sum(axis=0) > common
        bands &= ~crowded | np.roll(bands, -1, axis=1)
        similar = bands.any(axis=1) & (equal.sum(axis=1) >= plan.matches)
        (dropped if similar.any() else kept).append(place)
    return dropped


def _dropped(
    signatures: Signatures, used: np.ndarray, monkeypatch: pytest.MonkeyPatch, block: int
) -> list[int]:
    monkeypatch.setattr(near_duplicates, "documents_per_block", lambda plan, memory: block)
    statuses = np.where(used, 0, 2).astype(np.uint8)
    mark_near_duplicates(signatures, statuses, 4, LEAST_MEMORY)
    assert ((statuses == 2) == ~used).all()
    return np.flatnonzero(statuses == 4).tolist()


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 90),
    values=st.integers(2, 5),
    few=st.sampled_from([1, 3, 128]),
    block=st.integers(1, 100),
    at_once=st.sampled_from([1, 7, 1000]),
    common=st.sampled_from([1, 4, 1000]),
)
def test_kept_ones_drop_what_follows(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    values: int,
    few: int,
    block: int,
    at_once: int,
    common: int,
) -> None:
    """The definition, for any order, chains, blocks, common bands and sizes of the steps."""
    generator = np.random.default_rng(seed)
    made = generator.integers(1, values + 1, (count, PLAN.permutations)).astype(np.uint16)
    used = generator.random(count) < 0.9
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_FEW", few)
        patch.setattr(near_duplicates, "_COMMON", common)
        patch.setattr(near_duplicates, "_READ_AT_ONCE", at_once)
        patch.setattr(near_duplicates, "_PAIRS_AT_ONCE", at_once)
        signatures = _stored(tmp_path_factory.mktemp("made"), made, PLAN)
        expected = _by_definition(made, used, PLAN, common)
        assert _dropped(signatures, used, patch, block) == expected


@pytest.mark.parametrize("block", [1, 2, 3])
def test_a_chain_loses_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """A ~ B ~ C ~ D: B is like A and goes; C is like B alone and stays; D is like C and goes."""
    chain = np.array(
        [
            list(text.encode())
            for text in ("a" * 12, "bbbb" + "a" * 8, "bbbbccccaaaa", "ddddccccaaaa")
        ]
    )
    signatures = _stored(tmp_path, chain.astype(np.uint16), PLAN)
    assert _dropped(signatures, np.ones(4, dtype=bool), monkeypatch, block) == [1, 3]


def test_memory_has_a_limit(tmp_path: Path) -> None:
    """Whatever the number of documents; near-copies are far away."""
    plan = plan_near_duplicates(0.8, 128)
    generator = np.random.default_rng(1)
    values = generator.integers(0, 1 << 16, (64_000, 128), dtype=np.uint16)
    half = len(values) // 2
    values[half::2] = values[:half:2]
    values[1:half:4, :64] = values[half + 2 :: 4, :64]
    signatures = _stored(tmp_path, values, plan)
    statuses = np.zeros(len(values), dtype=np.uint8)
    del values
    assert near_duplicates.documents_per_block(plan, LEAST_MEMORY) < len(statuses) // 2
    tracemalloc.start()
    mark_near_duplicates(signatures, statuses, 4, LEAST_MEMORY)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < LEAST_MEMORY
    assert np.array_equal(np.flatnonzero(statuses), np.arange(half, len(statuses), 2))


def _made(language: str) -> tuple[list[str], list[str]]:
    """Return texts, and two others followed by a near-copy of each text."""
    maker = TextMaker(language)
    pairs = [maker.pair(60, 0.93, scattered=False) for _ in range(20)]
    others = [maker.text(60) for _ in range(2)]
    return [first for first, _ in pairs], [*others, *(second for _, second in pairs)]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven languages, each in two files; the near-copies are in the second one."""
    folder = tmp_path_factory.mktemp("corpus")
    for language in ALPHABETS:
        for name, texts in zip(("a", "b"), _made(language), strict=True):
            lines = json_lines([{"text": text} for text in texts])
            (folder / f"{language}.{name}.jsonl").write_bytes(lines)
    return folder


OPTIONS = {"near_duplicates": 0.8, "heldout_share": 0.3}


@pytest.fixture(scope="module")
def shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("shards")
    run(corpus, output, **OPTIONS)
    return output


def _texts(shards: Path, language: str) -> list[str]:
    encoder = open_encoder(shards / "tokenizer")
    folder = shards / "text" / language
    manifest = read_manifest(folder)
    return [
        encoder.decode(dataset.document(number))
        for shard in (*manifest.train.shards, *manifest.heldout.shards)
        for dataset in [IndexedDataset(folder / shard.name)]
        for number in range(len(dataset))
    ]


def test_the_first_in_order_stays_in_all_scripts(corpus: Path, shards: Path) -> None:
    """In its own split: no near-copy of a training text is held out, nor the other way round."""
    for language in ALPHABETS:
        texts, more = _made(language)
        assert sorted(_texts(shards, language)) == sorted([*texts, *more[:2]])
        manifest = read_manifest(shards / "text" / language)
        assert manifest.heldout.documents > 1
        assert manifest.rejected == {"near_duplicate": 20}


def test_the_manifest_and_the_report_say_how_they_were_found(shards: Path) -> None:
    found = read_manifest(shards / "text" / "tha_Thai").near_duplicates
    assert found is not None
    assert (found.threshold, found.permutations) == (0.8, 128)
    assert (found.bands, found.rows, found.matches) == (18, 7, 94)
    header, rows = report_rows(shards)
    assert {row[header.index("rejected_near_duplicate")] for row in rows} == {20}


def test_the_same_bytes_for_any_number_of_workers(
    corpus: Path, shards: Path, tmp_path: Path
) -> None:
    options = ["--near-duplicates", 0.8, "--heldout-fraction", 0.3, "--workers", 3]
    result = command_line("--input", corpus, "--output", tmp_path / "three", *options)
    assert result.returncode == 0, result.stderr
    assert tree(tmp_path / "three") == tree(shards)
    assert "near_duplicate 140" in result.stderr


def test_the_same_bytes_whatever_fits_into_memory_or_a_unit(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "documents_per_block", lambda plan, memory: 7)
    monkeypatch.setattr("mmbert_prep.shards.encode._BATCH_DOCUMENTS", 5)
    monkeypatch.setattr("mmbert_prep.shards.intermediate._FLUSH_TOKENS", 5000)
    run(corpus, tmp_path / "small", **OPTIONS, near_duplicate_memory=LEAST_MEMORY)
    assert tree(tmp_path / "small") == tree(shards)
    run(corpus, tmp_path / "units", **OPTIONS, unit_bytes=100_000)
    for path, data in tree(shards).items():
        if path != "text/summary.json":
            assert (tmp_path / "units" / path).read_bytes() == data, path


def test_an_interrupted_run_continues(
    corpus: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(deduplicate_and_split, "mark_near_duplicates", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(corpus, tmp_path / "out", **{**OPTIONS, "near_duplicates": 0.9})
    stored = list((tmp_path / "out").rglob("*.signatures"))
    assert stored
    monkeypatch.setattr(IntermediateWriter, "finish", interrupt)  # no unit is encoded again
    run(corpus, tmp_path / "out", **OPTIONS)
    assert tree(tmp_path / "out") == tree(shards)


def test_verification_knows_that_they_are_missing(corpus: Path, shards: Path) -> None:
    verify_against_text(shards, str(corpus), Console(quiet=True))
    path = shards / "text" / "tha_Thai" / "manifest.json"
    before = path.read_text()
    path.write_text(before.replace('"near_duplicate": 20', '"near_duplicate": 19'))
    try:
        errors = verify_source(shards / "text", str(corpus))["tha_Thai"].errors
    finally:
        path.write_text(before)
    assert "1 documents of the source are missing from the shards" in errors


def test_other_settings_are_named(corpus: Path, shards: Path) -> None:
    with pytest.raises(UserError, match=r"near_duplicates was 0\.8, is now 0\.9"):
        run(corpus, shards, **{**OPTIONS, "near_duplicates": 0.9})
    with pytest.raises(UserError, match=r"near_duplicates was 0\.8, is now None"):
        run(corpus, shards, heldout_share=0.3)


def test_exact_copies_count_as_such(tmp_path: Path) -> None:
    maker = TextMaker("eng_Latn")
    text, near = maker.pair(60, 0.93, scattered=True)
    lines = [text, maker.text(60), text, near, text.upper(), *(maker.text(60) for _ in range(40))]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "eng_Latn.txt").write_text("\n\n".join(lines))
    options = {**OPTIONS, "heldout_share": 0.0, "vocabulary_size": 500}
    both = run(tmp_path / "in", tmp_path / "both", **options)
    assert both.rejected() == {RejectReason.DUPLICATE: 1, RejectReason.NEAR_DUPLICATE: 2}
    near_only = run(tmp_path / "in", tmp_path / "near", **options, deduplicate=False)
    assert near_only.rejected() == {RejectReason.NEAR_DUPLICATE: 3}
    assert _texts(tmp_path / "both", "eng_Latn") == _texts(tmp_path / "near", "eng_Latn")


def test_token_ids_are_compared_as_text(shards: Path, tmp_path: Path) -> None:
    """Megatron files of the training texts, before and after their near-copies."""
    (tmp_path / "in" / "tha_Thai").mkdir(parents=True)
    source = shards / "text" / "tha_Thai" / "train-00000"
    for suffix in (".bin", ".idx"):
        data = source.with_suffix(suffix).read_bytes()
        (tmp_path / "in" / "tha_Thai" / f"b{suffix}").write_bytes(data)
    kept = _texts(shards, "tha_Thai")[: len(IndexedDataset(source))]
    changed = [{"text": text + " ."} for text in kept]
    (tmp_path / "in" / "tha_Thai" / "a.jsonl").write_bytes(json_lines(changed))
    tokenizer = shards / "tokenizer"
    options = {**OPTIONS, "heldout_share": 0.0, "tokenizer": tokenizer, "vocabulary_size": None}
    summary = run(tmp_path / "in", tmp_path / "out", **options)
    assert summary.rejected() == {RejectReason.NEAR_DUPLICATE: len(kept)}
    assert _texts(tmp_path / "out", "tha_Thai") == [text["text"] for text in changed]


def test_a_missing_package_is_said_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rensa", None)
    with pytest.raises(PackageError, match="rensa is not installed"):
        run(tmp_path / "nothing", tmp_path / "out", near_duplicates=0.8)


def test_as_many_are_found_as_the_curve_says(tmp_path: Path) -> None:
    """Recall at the threshold and false positives far below it, on pairs of known similarity.

    Two signatures agree in a value with probability s, so in a band of r values with s^r, in one of
    b bands with 1 - (1 - s^r)^b, and in at least m of k values with P(Binomial(k, s) >= m). A pair
    is found if both happen: at least with the sum of the two minus 1, at most with the smaller one.
    Of n pairs, as many are found, with a standard deviation of sqrt(n p (1 - p)); four are allowed.
    """
    languages = {"eng_Latn": (0.8, 240), "cmn_Hani": (0.5, 240), "amh_Ethi": (0.7, 100)}
    (tmp_path / "in").mkdir()
    for language, (similarity, count) in languages.items():
        maker = TextMaker(language, seed=5)
        pairs = [maker.pair(70, similarity, scattered=n % 2 == 0) for n in range(count)]
        texts = [{"text": text} for pair in pairs for text in pair]
        (tmp_path / "in" / f"{language}.jsonl").write_bytes(json_lines(texts))
    summary = run(tmp_path / "in", tmp_path / "out", near_duplicates=0.8)
    plan = plan_near_duplicates(0.8, 128)
    for language, (similarity, count) in languages.items():
        found = summary.languages[language].rejected.get(RejectReason.NEAR_DUPLICATE, 0)
        low, high = _bounds(plan, similarity, count)
        assert low <= found <= high, (language, similarity, found, low, high)
    assert _bounds(plan, 0.8, 240)[0] > 0.83 * 240
    assert _bounds(plan, 0.5, 240)[1] < 1


def _bounds(plan: NearDuplicates, similarity: float, count: int) -> tuple[float, float]:
    # The similarities of the pairs are within 0.015.
    results = []
    for s, lowest in ((similarity - 0.015, True), (similarity + 0.015, False)):
        banded = 1 - (1 - s**plan.rows) ** plan.bands
        spread = math.sqrt(plan.permutations * s * (1 - s))
        mean = NormalDist(plan.permutations * s, spread)
        matched = 1 - mean.cdf(plan.matches - 0.5)
        p = max(0.0, banded + matched - 1) if lowest else min(banded, matched)
        deviation = 4 * math.sqrt(count * p * (1 - p))
        results.append(count * p - deviation if lowest else count * p + deviation)
    return results[0], results[1]
