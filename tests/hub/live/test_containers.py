"""SentenceTransformer and CrossEncoder models are packed through the model that they hold."""

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import mmbert
from mmbert.errors import ModelError
from tests.support.live_models import ENCODER, SEQUENCE, live_model, padded

if find_spec("sentence_transformers") is None:
    pytest.skip("needs sentence-transformers", allow_module_level=True)

TEXTS = [
    "w4 w4 w5", "w9", " ".join(f"w{n}" for n in range(4, 40)), "w8 w7 w6 w5 w4", "w50 w4",
]  # fmt: skip
PAIRS = [("w4 w4", "w5"), ("w4", " ".join(f"w{n}" for n in range(20, 44))), ("w7 w9 w9", "w4")]


@pytest.fixture(scope="module")
def library() -> SimpleNamespace:
    """What is used of sentence-transformers, imported here: that takes seconds in each worker."""
    import sentence_transformers

    try:  # sentence-transformers 6
        from sentence_transformers.base.modules import Dense, Normalize, Transformer
        from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
        from sentence_transformers.sentence_transformer.modules import Pooling
    except ImportError:
        from sentence_transformers.losses import MultipleNegativesRankingLoss
        from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    return SimpleNamespace(
        SentenceTransformer=sentence_transformers.SentenceTransformer,
        CrossEncoder=sentence_transformers.CrossEncoder,
        Transformer=Transformer, Pooling=Pooling, Dense=Dense, Normalize=Normalize,
        MultipleNegativesRankingLoss=MultipleNegativesRankingLoss,
    )  # fmt: skip


def embedder(library: Any, folder: Path) -> Any:
    transformer = library.Transformer(str(folder))
    modules = [transformer, library.Pooling(64, pooling_mode="mean")]
    return library.SentenceTransformer(modules=modules, device="cpu")


def test_sentence_vectors_and_gradients(
    library: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    model = embedder(library, folders[ENCODER])
    expected = model.encode(TEXTS)
    gradients = []
    loss = library.MultipleNegativesRankingLoss(model)
    tokenize = getattr(model, "preprocess", None) or model.tokenize
    for packed in (False, True):
        if packed:
            assert mmbert.pack(model, validate=TEXTS) is model
        model.zero_grad()
        loss([tokenize(TEXTS[:3]), tokenize(TEXTS[2:])], torch.zeros(3)).backward()
        gradients.append(model[0].auto_model.layers[2].mlp.Wi.weight.grad.clone())
    assert (gradients[1] - gradients[0]).abs().max() <= 5e-6 * gradients[0].abs().max()
    found = model.encode(TEXTS)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
    assert not model[0].auto_model.forward.detours.counts

    model.save(str(tmp_path / "saved"))
    saved = library.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert np.abs(saved.encode(TEXTS) - expected).max() <= 2e-6 * np.abs(expected).max()
    mmbert.unpack(model)
    assert np.array_equal(model.encode(TEXTS), expected)


def test_cross_encoder(library: Any, folders: dict[str, Path]) -> None:
    model = library.CrossEncoder(str(folders[SEQUENCE]), device="cpu")
    expected = model.predict(PAIRS)
    inner = model.model
    assert mmbert.pack(model) is model
    found = model.predict(PAIRS)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()
    assert inner.model.forward.is_packed_forward
    assert not inner.model.forward.detours.counts
    mmbert.unpack(model)
    assert np.array_equal(model.predict(PAIRS), expected)


@pytest.mark.parametrize(
    "written",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
def test_what_cross_encoders_write_into_configurations(written: dict[str, Any]) -> None:
    """By sentence-transformers 4 and 5, and by earlier releases."""
    mmbert.pack(live_model(SEQUENCE, num_labels=1, **written))


def test_subclasses_as_those_of_pylate(library: Any, folders: dict[str, Path]) -> None:
    class ColBERT(library.SentenceTransformer):  # type: ignore[misc, name-defined]
        """As pylate.models.ColBERT: token vectors, projected by a dense layer."""

    dense = library.Dense(64, 16, bias=False, activation_function=torch.nn.Identity())
    torch.nn.init.normal_(dense.linear.weight)
    model = ColBERT(modules=[library.Transformer(str(folders[ENCODER])), dense], device="cpu")
    tokenize = getattr(model, "preprocess", None) or model.tokenize
    features = tokenize(TEXTS)
    real = features["attention_mask"].bool()
    with torch.no_grad():
        hidden = model[0](dict(features))["token_embeddings"][real]
        packed = mmbert.pack(model)[0](dict(features))["token_embeddings"]
    assert (packed[real] - hidden).abs().max() <= 2e-6 * hidden.abs().max()
    assert not packed[~real].any()


def test_expanded_queries_keep_the_vectors_of_their_masked_tokens(
    library: Any, folders: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """PyLate scores tokens that it appends with a mask of 0, unless they are attended to."""

    class ColBERT(library.SentenceTransformer):  # type: ignore[misc, name-defined]
        do_query_expansion, attend_to_expansion_tokens, query_length = True, False, 12

    model = ColBERT(modules=[library.Transformer(str(folders[ENCODER]))], device="cpu")
    queries, documents = padded([5, 12, 7]), padded([5, 13, 7])
    queries["input_ids"][queries["attention_mask"] == 0] = 4  # the mask token, in PyLate
    with torch.no_grad():
        expected = model[0](dict(queries))["token_embeddings"]
        mmbert.pack(model)
        assert torch.equal(model[0](dict(queries))["token_embeddings"], expected)
        assert "expanded queries" in caplog.text
        counts = model[0].auto_model.forward.detours.counts
        assert counts.total() == 1
        assert not model[0](dict(documents))["token_embeddings"][0, 5:].any()
        model.attend_to_expansion_tokens = True
        model[0](dict(queries))
        assert counts.total() == 1
    mmbert.pack(mmbert.unpack(model), validate=documents)


def test_sentence_transformers_of_other_models(library: Any) -> None:
    words = library.Normalize()
    model = library.SentenceTransformer(modules=[words], device="cpu")
    with pytest.raises(ModelError, match="SentenceTransformer is not a model that can be packed"):
        mmbert.pack(model)


def test_validate_of_another_type(library: Any, folders: dict[str, Path]) -> None:
    model = embedder(library, folders[ENCODER])
    with pytest.raises(ModelError, match=r"validate is a int(.|\n)*list of texts"):
        mmbert.pack(model, validate=3)
    assert "forward" not in model[0].auto_model.__dict__
