"""PyLate's own ColBERT: documents are packed, and expanded queries go the unpacked way."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmbert
from mmbert.errors import ModelError
from tests.support.live_models import ENCODER, difference

if find_spec("pylate") is None:
    pytest.skip("PyLate is tested by `make test-versions`", allow_module_level=True)
from pylate import losses, models

QUERIES = ["w4 w5 w6", "w9", "w20 w21 w22 w23"]
DOCUMENTS = ["w4 w5", " ".join(f"w{n}" for n in range(20, 60)), "w7 w9 w9 w30 w31"]
EXPANDED = "expanded queries, whose tokens count but are not attended to"


def colbert(folder: Path, **settings: Any) -> Any:
    torch.manual_seed(5)  # of the projection
    return models.ColBERT(
        str(folder), embedding_size=16, query_length=12, document_length=48,
        skiplist_words=["w9"], device="cpu",
        **settings,
    )  # fmt: skip


def counts(model: Any) -> Any:
    return model[0].auto_model.forward.detours.counts


def batch(model: Any) -> list[dict[str, torch.Tensor]]:
    """Return what PyLate's collator makes of queries, documents and wrong documents."""
    return [
        model.tokenize(QUERIES, is_query=True),
        model.tokenize(DOCUMENTS, is_query=False),
        model.tokenize(DOCUMENTS[1:] + DOCUMENTS[:1], is_query=False),
    ]


@pytest.mark.parametrize("expanded", [True, False])
def test_training_steps(folders: dict[str, Path], expanded: bool) -> None:
    found: dict[bool, list[float]] = {}
    gradients = {}
    for packed in (False, True):
        model = colbert(folders[ENCODER], do_query_expansion=expanded)
        if packed:
            mmbert.pack(model, validate=model.tokenize(DOCUMENTS, is_query=False))
        loss_of = losses.Contrastive(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        found[packed] = []
        for step in range(3):
            loss = loss_of(batch(model.train()))
            optimizer.zero_grad()
            loss.backward()
            if not step:
                gradients[packed] = {n: p.grad.clone() for n, p in model.named_parameters()}
            optimizer.step()
            found[packed].append(float(loss.detach()))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-6)
    assert found[True] == pytest.approx(found[False], rel=1e-5)
    assert found[True][-1] < found[True][0]
    for name, gradient in gradients[False].items():
        assert difference(gradients[True][name], gradient) <= 5e-6, name
    assert counts(model) == ({EXPANDED: 3} if expanded else {})  # not for the 6 of documents


def test_vectors(folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    model = colbert(folders[ENCODER])
    expected = [model.encode(QUERIES, is_query=True), model.encode(DOCUMENTS, is_query=False)]
    mmbert.pack(model)
    documents = model.encode(DOCUMENTS, is_query=False)
    assert not counts(model)
    for found, theirs in zip(documents, expected[1], strict=True):
        assert np.abs(found - theirs).max() <= 2e-6 * np.abs(theirs).max()
    queries = model.encode(QUERIES, is_query=True)
    assert all(map(np.array_equal, queries, expected[0]))
    assert all(len(query) == 12 for query in queries)
    assert caplog.text.count(EXPANDED) == 1


def test_expansion_tokens_that_are_attended_to_are_packed(folders: dict[str, Path]) -> None:
    model = colbert(folders[ENCODER], attend_to_expansion_tokens=True)
    expected = model.encode(QUERIES, is_query=True)
    found = mmbert.pack(model, validate=QUERIES).encode(QUERIES, is_query=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()
    assert not counts(model)


def test_expanded_queries_are_no_batch_to_validate_with(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=rf"goes the unpacked way, for {EXPANDED}"):
        mmbert.pack(colbert(folders[ENCODER]), validate=QUERIES)
