"""The rows of a run are the same on any number of ranks and workers, and after any restart."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mmbert.data.loading.loader import DataState, RowLoader, merge_states
from mmbert.data.loading.replay import documents_of_step
from mmbert.data.loading.rows import Row
from mmbert.data.shards.corpus import Corpus
from mmbert.data.shards.indexed_dataset import IndexedDataset
from mmbert.errors import UserError
from mmbert.recipe import Recipe
from mmbert.schedule import TrainingPlan, training_plan
from tests.support.corpora import document_tokens, write_corpus
from tests.support.recipes import phase, small_recipe

QUANTUM = 24  # divisible by 1, 2, 3 and 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Three languages, some documents much longer than the contexts."""
    random = np.random.default_rng(5)
    languages = {
        name: np.maximum(1, random.lognormal(3.4, 1.2, count)).astype(int).tolist()
        for name, count in (("aaa_Latn", 700), ("bbb_Latn", 200), ("ccc_Cyrl", 40))
    }
    return write_corpus(
        tmp_path_factory.mktemp("shards"), {"web": languages}, contexts=[64, 128], heldout=[9, 200]
    )


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """Two phases that change languages, context, temperature and mask ratio."""
    return small_recipe(
        phase("a", 256 * QUANTUM * 3, languages=["aaa", "bbb"]),
        phase("b", 256 * QUANTUM * 2, context=128, mask_ratio=0.15, temperature=0.2),
        row_tokens=256,
        rows=QUANTUM,
        quantum=QUANTUM,
    )


@pytest.fixture(scope="module")
def plan(recipe: Recipe) -> TrainingPlan:
    """Steps 0 to 2 in phase a, 3 and 4 in phase b."""
    return training_plan(recipe)


@pytest.fixture(scope="module")
def rows(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> list[Row]:
    """The whole run as one rank reads it."""
    return list(RowLoader(corpus, recipe, plan))


def read_in_lockstep(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    ranks: int,
    *,
    first_step: int = 0,
    state: DataState | None = None,
    workers: int = 0,
    stop: int | None = None,
) -> tuple[list[Row], DataState]:
    """All rows of steps first_step … stop - 1 from `ranks` loaders, step by step as in training."""
    loaders: list[RowLoader] = []

    def exchange(own: DataState) -> list[DataState]:
        return [loader.state_after(own["step"] - 1) for loader in loaders]

    for rank in range(ranks):
        loaders.append(
            RowLoader(
                corpus,
                recipe,
                plan,
                data_rank=rank,
                data_ranks=ranks,
                state=state,
                first_step=first_step,
                workers=workers,
                exchange=exchange,
            )
        )
    iterators: list[Iterator[Row]] = [iter(loader) for loader in loaders]
    read = []
    stop = plan.steps if stop is None else stop
    for step in range(first_step, stop):
        at = plan.at(step)
        taken = [[next(iterator) for _ in range(at.rows // ranks)] for iterator in iterators]
        for place in range(at.rows // ranks):
            read += [taken[rank][place] for rank in range(ranks)]
    merged = merge_states([loader.state_after(stop - 1) for loader in loaders])
    for loader in loaders:
        loader.close()
    return read, merged


def assert_same(first: Row, second: Row) -> None:
    """Every field equal, bit for bit."""
    for name in Row.__dataclass_fields__:
        a, b = getattr(first, name), getattr(second, name)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b, err_msg=name)
        else:
            assert a == b, name


def test_rows_come_in_order(rows: list[Row], plan: TrainingPlan) -> None:
    assert [row.index for row in rows] == list(range(plan.phases[-1].first_row + 48))


@pytest.mark.parametrize("ranks", [2, 3, 8])
def test_any_number_of_ranks_reads_the_same_rows(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row], ranks: int
) -> None:
    read, _ = read_in_lockstep(corpus, recipe, plan, ranks)
    assert len(read) == len(rows)
    for expected, row in zip(rows, read, strict=True):
        assert_same(expected, row)


@pytest.mark.parametrize("workers", [1, 4])
def test_any_number_of_workers_reads_the_same_rows(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row], workers: int
) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=workers)
    count = 0
    for expected, row in zip(rows, loader, strict=True):
        assert_same(expected, row)
        count += 1
    assert count == len(rows)


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2), (2, 1)])
def test_resuming_on_another_number_of_ranks(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    rows: list[Row],
    stop: int,
    before: int,
    after: int,
) -> None:
    """Stop after any step (3 is the phase's end); the state goes through JSON."""
    _, state = read_in_lockstep(corpus, recipe, plan, before, stop=stop)
    state = json.loads(json.dumps(state))
    assert state["step"] == stop
    remaining = rows[stop * QUANTUM :]
    if stop < plan.steps:
        read, end = read_in_lockstep(corpus, recipe, plan, after, first_step=stop, state=state)
        for expected, row in zip(remaining, read, strict=True):
            assert_same(expected, row)
        assert json.loads(json.dumps(end)) == json.loads(
            json.dumps(read_in_lockstep(corpus, recipe, plan, 1)[1])
        )
    else:
        assert list(RowLoader(corpus, recipe, plan, state=state, first_step=stop)) == []


def test_state_before_the_first_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    loader = RowLoader(corpus, recipe, plan)
    state = json.loads(json.dumps(loader.state_after(-1)))
    assert_same(rows[0], next(iter(RowLoader(corpus, recipe, plan, state=state))))


def test_state_is_small_and_asked_for_by_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan
) -> None:
    loader = RowLoader(corpus, recipe, plan)
    iterator = iter(loader)
    for _ in range(QUANTUM):
        next(iterator)
    size = len(json.dumps(loader.state_after(0)))
    assert size < 4000 * QUANTUM  # a position and under a hundred waiting segments a stream
    with pytest.raises(ValueError, match="step 1 is not among"):
        loader.state_after(1)


def test_rows_hold_the_documents_they_name(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    """Unmasked ids are begin, the named tokens of the named document, end; then padding."""
    numbers = {"aaa_Latn": 0, "bbb_Latn": 1, "ccc_Cyrl": 2}
    for row in rows[::5]:
        settings = recipe.phases[plan.phase_of_row(row.index).index]
        assert row.max_seqlen == settings.context
        ids = row.input_ids.copy()
        used = row.weights > 0
        ids[row.masked_positions[used]] = row.labels[used]
        assert (np.diff(row.masked_positions) >= 0).all()
        end = 0
        for place, (component, document, start, size) in enumerate(row.documents.tolist()):
            begin, end = row.cu_seqlens[place : place + 2].tolist()
            assert end - begin == size + 2
            assert end - begin <= row.max_seqlen
            assert row.segment_components[place] == component
            language = corpus.components[component].language
            whole = document_tokens(numbers[language], document, start + size, 1000)
            assert ids[begin] == 2
            assert ids[end - 1] == 1
            np.testing.assert_array_equal(ids[begin + 1 : end - 1], whole[start:])
        assert end == row.tokens
        assert (row.input_ids[end:] == 0).all()
        assert (row.segment_components[len(row.documents) :] == -1).all()
        owners = np.searchsorted(row.cu_seqlens, row.masked_positions[used], "right") - 1
        np.testing.assert_array_equal(row.masked_components[used], row.segment_components[owners])
        assert (row.masked_components[~used] == -1).all()
        ratio = settings.mask_ratio
        assert len(row.labels) == int(np.ceil(ratio * 256))
        assert used.sum() == round(ratio * (row.tokens - 2 * len(row.documents)))


def test_shapes_are_fixed_within_a_phase(rows: list[Row], plan: TrainingPlan) -> None:
    for planned in plan.phases:
        shapes = {
            (len(row.cu_seqlens), len(row.labels), row.max_seqlen)
            for row in rows[planned.first_row : planned.first_row + planned.rows]
        }
        assert len(shapes) == 1


def test_replay_names_the_documents_of_any_step(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    for step, start in ((1, None), (4, None), (4, state), (2, state)):
        uses = documents_of_step(corpus, recipe, plan, step, start)
        named = [(use.row, use.component, use.document, use.start, use.tokens) for use in uses]
        expected = [
            (row.index, corpus.components[component].name, document, first, size)
            for row in rows[step * QUANTUM : (step + 1) * QUANTUM]
            for component, document, first, size in row.documents.tolist()
        ]
        assert named == expected
    with pytest.raises(UserError, match="step 1 lies outside"):
        documents_of_step(corpus, recipe, plan, 1, state)


def test_another_seed_is_another_order(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, rows: list[Row]
) -> None:
    other = next(iter(RowLoader(corpus, recipe.model_copy(update={"seed": 22}), plan)))
    assert not np.array_equal(other.documents[:5], rows[0].documents[:5])


def _change(recipe: Recipe, index: int, **changes: object) -> Recipe:
    values = recipe.model_dump(mode="json", by_alias=True, exclude_none=True)
    values["phases"][index].update(changes)
    return Recipe.model_validate(values)


def test_a_changed_mixture_is_refused_where_it_has_begun(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan
) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    changed = _change(recipe, 0, temperature=0.6)
    with pytest.raises(UserError, match="phase 'a' was begun with another order"):
        RowLoader(corpus, changed, plan, state=state, first_step=2)
    for other in ({**recipe.model_dump(mode="json", by_alias=True, exclude_none=True), "seed": 5},):
        with pytest.raises(UserError, match="phase 'a' was begun with another order"):
            RowLoader(corpus, Recipe.model_validate(other), plan, state=state, first_step=2)
    later = _change(recipe, 1, temperature=0.6)
    assert len(list(RowLoader(corpus, later, plan, state=state, first_step=2))) == 3 * QUANTUM


def test_a_loader_is_iterated_once(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan)
    next(iter(loader))
    with pytest.raises(RuntimeError, match="once"):
        iter(loader)


def test_wrong_starts_are_refused(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    _, state = read_in_lockstep(corpus, recipe, plan, 1, stop=2)
    with pytest.raises(ValueError, match="before step 2, not 1"):
        RowLoader(corpus, recipe, plan, state=state, first_step=1)
    with pytest.raises(UserError, match=r"5 data ranks, which do not divide batch\.quantum 24"):
        RowLoader(corpus, recipe, plan, data_ranks=5)
    with pytest.raises(ValueError, match="exchange"):
        RowLoader(corpus, recipe, plan, data_ranks=2)
    part: DataState = {**state, "streams": {"0": state["streams"]["0"]}}
    with pytest.raises(UserError, match="has 1 data streams"):
        RowLoader(corpus, recipe, plan, state=part, first_step=2)
    with pytest.raises(ValueError, match="differ in step"):
        merge_states([state, {**state, "step": 3}])


@pytest.mark.parametrize("stop", [2, 3, 5, 7])
def test_corpus_may_gain_a_language(tmp_path: Path, stop: int) -> None:
    """A new language moves the indices of others; a run in progress goes on as it was.

    Stopped within the first phase, at its end, and in the phases after it: by then pieces have gone
    back to their languages, and remainders of one that rests are kept.
    """
    lengths = {"bbb_Latn": [30, 200] * 100, "ddd_Latn": [50] * 260}
    named = small_recipe(
        phase("a", 256 * 6 * 3, context=16, languages=["bbb", "ddd"]),
        phase("b", 256 * 6 * 3, languages=["ddd"]),
        phase("c", 256 * 6 * 3, context=128, languages=["ddd", "bbb"], temperature=0.2),
        row_tokens=256,
        rows=6,
        quantum=6,
    )
    plan = training_plan(named)
    old = write_corpus(tmp_path / "old", {"web": lengths}, contexts=[64, 128])
    expected, end = read_in_lockstep(old, named, plan, 1)
    _, state = read_in_lockstep(old, named, plan, 1, stop=stop)
    state = json.loads(json.dumps(state))
    # what the new indices must be given to, wherever it can have come about
    assert [bool(ended["returned"]) for ended in state["ended"]] == [True] * ((stop - 1) // 3)
    assert any(stream["kept"] for stream in state["streams"].values()) == (stop == 5)
    # the same texts, with a language that sorts before them
    numbered = {"bbb_Latn": lengths["bbb_Latn"], "ddd_Latn": lengths["ddd_Latn"], "aaa_Latn": [9]}
    new = write_corpus(tmp_path / "new", {"web": numbered}, contexts=[64, 128])
    rows, new_end = read_in_lockstep(new, named, plan, 1, first_step=stop, state=state)
    for before, row in zip(expected[stop * 6 :], rows, strict=True):
        np.testing.assert_array_equal(before.input_ids, row.input_ids)
        moved = before.documents + np.array([1, 0, 0, 0])
        np.testing.assert_array_equal(moved, row.documents)
    assert _by_name(new_end) == _by_name(end)


def _by_name(state: DataState) -> object:
    """The state with components by their names."""
    names = state["components"]
    ended = [
        (
            phase["positions"],
            [(names[component], number) for component, number in phase["returned"]],
        )
        for phase in state["ended"]
    ]
    streams = {
        key: (
            stream["position"],
            [(names[entry[0]], *entry[1:]) for entry in stream["carried"]],
            [(names[entry[0]], *entry[1:]) for entry in stream["kept"]],
        )
        for key, stream in state["streams"].items()
    }
    return ended, streams


def _damage(path: Path) -> None:
    content = np.fromfile(path, dtype="<u2")
    content[:] = 1000  # outside the vocabulary of 1000 ids
    content.tofile(path)


@pytest.mark.parametrize("workers", [0, 2])
def test_ids_outside_the_vocabulary_are_never_given_out(
    tmp_path: Path, workers: int, recipe: Recipe, plan: TrainingPlan
) -> None:
    corpus = write_corpus(
        tmp_path, {"web": {"aaa_Latn": [50] * 200, "bbb_Latn": [50] * 90}}, contexts=[64, 128]
    )
    _damage(tmp_path / "web/bbb_Latn/train-00000.bin")
    with pytest.raises(UserError, match=r"bbb_Latn/train-00000\.bin holds id 1000"):
        list(RowLoader(corpus, recipe, plan, workers=workers))


def test_a_dead_worker_is_reported(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=1)
    iterator = iter(loader)
    next(iterator)
    assert loader._workers is not None
    worker = loader._workers._processes[0]
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"worker died before row .* \(exit -9\)"):
        list(iterator)
    loader.close()


def test_workers_end_with_their_reader(corpus: Corpus, recipe: Recipe, plan: TrainingPlan) -> None:
    loader = RowLoader(corpus, recipe, plan, workers=2)
    next(iter(loader))
    assert loader._workers is not None
    processes = list(loader._workers._processes)
    os.kill(processes[0].pid, signal.SIGTERM)  # a signal to the group does not end them
    loader.close()
    assert [process.returncode for process in processes] == [0, 0]


def _count_calls(monkeypatch: pytest.MonkeyPatch, target: str) -> Callable[[], int]:
    calls = []
    module, name = target.rsplit(".", 1)
    original = __import__(module, fromlist=[name]).__dict__[name]

    def counted(*args: object, **options: object) -> object:
        calls.append(args)
        return original(*args, **options)

    monkeypatch.setattr(target, counted)
    return lambda: len(calls)


def test_starting_opens_no_shard(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    opened = _count_calls(monkeypatch, "mmbert.data.shards.corpus.IndexedDataset")
    loader = RowLoader(fresh, recipe, plan)
    assert opened() == 0
    for _ in loader:
        pass
    assert opened() == 3  # each shard once


def test_text_is_asked_for_before_it_is_read(
    corpus: Corpus, recipe: Recipe, plan: TrainingPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[tuple[str, int]] = set()

    def ask(self: IndexedDataset, start: int, end: int) -> None:
        asked.update((self.prefix.parent.name, token) for token in range(start, end))

    monkeypatch.setattr("mmbert.data.sampling.phase_sampler.READ_AHEAD_FROM", 0)
    monkeypatch.setattr(IndexedDataset, "read_ahead", ask)
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    for row in RowLoader(fresh, recipe, plan):
        for component, document, start, size in row.documents.tolist():
            owner = corpus.components[component]
            offset = corpus.shard(owner, "train", 0).offsets[document] // 2 + start
            assert {(owner.language, t) for t in range(offset, offset + size)} <= asked


def test_few_descriptors_are_enough(
    corpus: Corpus,
    recipe: Recipe,
    plan: TrainingPlan,
    rows: list[Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmbert.data.shards.corpus._open_shard_limit", lambda: 1)
    fresh = Corpus(corpus.root, corpus.tokenizer, corpus.components)
    opened = _count_calls(monkeypatch, "mmbert.data.shards.corpus.IndexedDataset")
    indexed = _count_calls(monkeypatch, "mmbert.data.shards.corpus.read_continuation_index")
    for expected, row in zip(rows, RowLoader(fresh, recipe, plan), strict=True):
        np.testing.assert_array_equal(expected.input_ids, row.input_ids)
        assert len(fresh._continuations) <= 1
    assert opened() > 3
    assert indexed() > len(fresh.components)
