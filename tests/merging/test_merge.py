"""Merging against float64 references, with provenance and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from mmbert.errors import UserError
from mmbert.hub.export import export_checkpoint
from mmbert.hub.models import build_model
from mmbert.merging import methods
from mmbert.merging.merge import MergeOptions, merge_models
from mmbert.merging.methods import exponential_weights, ties, weighted_mean
from mmbert.model.modernbert import MaskedLanguageModel
from tests.support.written_runs import Run, save_run


def plain_ties(
    base: np.ndarray, models: list[np.ndarray], weights: list[float], density: float
) -> np.ndarray:
    """Float64 reference of TIES (Yadav et al. 2023), element by element."""
    deltas = [model.astype(np.float64) - base.astype(np.float64) for model in models]
    trimmed = []
    for delta in deltas:
        flat = delta.flatten()
        count = max(1, int(density * flat.size))
        kept = np.argsort(-np.abs(flat), kind="stable")[:count]
        sparse = np.zeros_like(flat)
        sparse[kept] = flat[kept]
        trimmed.append(sparse)
    merged = base.astype(np.float64).flatten()
    for position in range(merged.size):
        values = [(w, t[position]) for w, t in zip(weights, trimmed, strict=True)]
        total = sum(w * value for w, value in values)
        if total == 0:
            continue
        agreeing = [(w, value) for w, value in values if value != 0 and (value > 0) == (total > 0)]
        merged[position] += sum(w * v for w, v in agreeing) / sum(w for w, _ in agreeing)
    return merged.reshape(base.shape)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 4),
    density=st.sampled_from([0.01, 0.2, 0.5, 0.77, 1.0]),
    shape=st.sampled_from([(1,), (7,), (5, 9), (13, 4)]),
)
def test_ties_equals_the_plain_algorithm(
    seed: int, count: int, density: float, shape: tuple[int, ...]
) -> None:
    generator = np.random.default_rng(seed)
    base = generator.normal(size=shape).astype(np.float32)
    models = [(base + 0.1 * generator.normal(size=shape)).astype(np.float32) for _ in range(count)]
    weights = generator.uniform(0.2, 2.0, count).tolist()
    found = ties(torch.tensor(base), [torch.tensor(m) for m in models], weights, density)
    expected = plain_ties(base, models, weights, density)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_ties_by_hand() -> None:
    """Trim the smaller half, elect a sign, average the values that agree with it."""
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    models = [
        base + torch.tensor([4.0, -3.0, 0.1, 0.2]),
        base + torch.tensor([-1.0, -5.0, 0.1, 0.0]),
        base + torch.tensor([2.0, 0.1, 0.1, 3.0]),
    ]
    merged = ties(base, models, [1, 1, 1], 0.5)
    # First: +4, −1, +2 → positive, mean of 4 and 2. Second: −3 and −5. Third: trimmed everywhere.
    # Fourth: only +3 was kept.
    assert merged.tolist() == [4.0, -3.0, 1.0, 4.0]


def test_ties_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    base, *models = torch.randn(4, 50, 7, generator=generator)
    whole = ties(base, models, [1, 2, 3], 0.3), weighted_mean(models, [1, 2, 3])
    monkeypatch.setattr(methods, "_CHUNK", 11)
    parts = ties(base, models, [1, 2, 3], 0.3), weighted_mean(models, [1, 2, 3])
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])


def test_exponential_weights() -> None:
    weights = exponential_weights(3, 0.5)
    assert weights == pytest.approx([1 / 7, 2 / 7, 4 / 7])  # the newest has the largest weight
    assert exponential_weights(4, 1.0) == [0.25] * 4
    with pytest.raises(ValueError, match="decay"):
        exponential_weights(3, 0.0)


def changed(run: Run, seed: int) -> MaskedLanguageModel:
    """Return the run's model with all weights perturbed."""
    generator = torch.Generator().manual_seed(seed)
    moved = (
        (name, tensor + 0.02 * torch.randn(tensor.shape, generator=generator))
        for name, tensor in run.model.named_parameters()
    )
    return build_described(run, dict(moved))


def build_described(run: Run, tensors: dict[str, torch.Tensor]) -> MaskedLanguageModel:
    return build_model(run.model.config, tensors.items())


@pytest.fixture(scope="module")
def variants(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three checkpoints of one run, like those of three decay variants."""
    folder = tmp_path_factory.mktemp("variants") / "tiny"
    return [save_run(folder, changed(run, seed), step=40 + 10 * seed) for seed in range(3)]


def parameters(run: Run, variants: list[Path]) -> list[dict[str, np.ndarray]]:
    count = len(variants)
    models = [dict(changed(run, seed).named_parameters()) for seed in range(count)]
    return [{name: tensor.detach().numpy() for name, tensor in m.items()} for m in models]


def test_ties_of_checkpoints_onto_their_base(
    run: Run, variants: list[Path], tmp_path: Path
) -> None:
    options = MergeOptions("ties", weights=(1.0, 2.0, 0.5), density=0.4)
    merge_models(variants, tmp_path / "out", options, base=run.checkpoint)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    models = parameters(run, variants)
    for name, tensor in run.model.named_parameters():
        expected = plain_ties(tensor.numpy(), [m[name] for m in models], [1, 2, 0.5], 0.4)
        assert np.allclose(merged[name].numpy(), expected, rtol=1e-6, atol=1e-7), name
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["method"] == "ties"
    assert provenance["density"] == 0.4
    assert [m["weight"] for m in provenance["models"]] == [1.0, 2.0, 0.5]
    assert [m["step"] for m in provenance["models"]] == [40, 50, 60]
    assert provenance["base"]["step"] == 30
    card = (tmp_path / "out" / "README.md").read_text()
    assert "the TIES merge of 3 models" in card
    # The tokens of the base once; none of the three trained on more.
    assert "| eng_Latn | 30,000 |" in card


@pytest.mark.parametrize("method", ["linear", "ema"])
def test_averages_of_checkpoints(
    run: Run, variants: list[Path], tmp_path: Path, method: str
) -> None:
    if method == "linear":
        # Given newest first: weights belong to models by position.
        options, weights = MergeOptions("linear", weights=(1.0, 1.0, 3.0)), [0.6, 0.2, 0.2]
    else:
        # Sorted by step, regardless of the order.
        options, weights = MergeOptions("ema", decay=0.5), [1 / 7, 2 / 7, 4 / 7]
    merge_models(variants[::-1], tmp_path / "out", options)
    merged = load_file(tmp_path / "out" / "model.safetensors")
    models = parameters(run, variants)
    for name in merged:
        expected = sum(w * m[name].astype(np.float64) for w, m in zip(weights, models, strict=True))
        assert np.allclose(merged[name].numpy(), expected, rtol=1e-6, atol=1e-8), name


def test_hugging_face_folders_merge_too(
    run: Run, variants: list[Path], exported: Path, tmp_path: Path
) -> None:
    export_checkpoint(variants[0], tmp_path / "first")
    merge_models([tmp_path / "first", exported], tmp_path / "out", MergeOptions("linear"))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    one, two = dict(changed(run, 0).named_parameters()), dict(run.model.named_parameters())
    for name in merged:
        assert torch.allclose(merged[name], (one[name] + two[name]) / 2, atol=1e-6), name


def test_folders_saved_again_by_transformers_merge(exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    AutoModelForMaskedLM.from_pretrained(exported).save_pretrained(again)
    AutoTokenizer.from_pretrained(exported).save_pretrained(again)
    definition = json.loads((again / "tokenizer.json").read_text())
    (again / "tokenizer.json").write_text(json.dumps(definition, indent=1))
    merge_models([exported, again], tmp_path / "out", MergeOptions("linear"))
    merged, one = (load_file(f / "model.safetensors") for f in (tmp_path / "out", exported))
    assert all(torch.equal(merged[name], one[name]) for name in one)
    definition["normalizer"] = {"type": "Lowercase"}
    (again / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(UserError, match="different tokenizers: normalizer"):
        merge_models([exported, again], tmp_path / "other", MergeOptions("linear"))


def test_a_model_merged_with_itself_is_itself(run: Run, tmp_path: Path) -> None:
    merge_models([run.checkpoint] * 3, tmp_path / "out", MergeOptions("linear"))
    merged = load_file(tmp_path / "out" / "model.safetensors")
    for name, tensor in run.model.named_parameters():
        assert torch.equal(merged[name], tensor), name


@pytest.mark.parametrize(
    ("options", "count", "with_base", "says"),
    [
        (MergeOptions("ties"), 2, False, "branched from"),
        (MergeOptions("linear"), 2, True, "takes no base"),
        (MergeOptions("linear"), 1, False, "at least two"),
        (MergeOptions("linear", weights=(1.0,)), 2, False, "1 weights for 2 models"),
        (MergeOptions("linear", weights=(1.0, 0.0)), 2, False, "weight 0 is not positive"),
        (MergeOptions("ema", weights=(1.0, 1.0)), 2, False, "from the decay"),
    ],
)
def test_refusals(
    run: Run,
    variants: list[Path],
    tmp_path: Path,
    options: MergeOptions,
    count: int,
    with_base: bool,
    says: str,
) -> None:
    base = run.checkpoint if with_base else None
    with pytest.raises(UserError, match=says):
        merge_models(variants[:count], tmp_path / "out", options, base=base)
    assert not (tmp_path / "out").exists()


def test_models_of_different_last_phases_do_not_merge(run: Run, tmp_path: Path) -> None:
    early = save_run(tmp_path / "run", run.model, phase="first")
    with pytest.raises(UserError, match="rotary bases"):
        merge_models([early, run.checkpoint], tmp_path / "out", MergeOptions("linear"))
