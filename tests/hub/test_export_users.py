"""What people do with an exported folder: other precisions, pipelines, embeddings, ONNX, heads."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from mmbert.errors import UserError
from mmbert.hub.building import build_model, pack
from mmbert.hub.export import export_checkpoint
from mmbert.hub.fill_mask import fill_masks
from tests.hub.runs import TOLERANCE, Run, documents, our_logits


def test_bfloat16_folder_and_its_error_against_float64(run: Run, tmp_path: Path) -> None:
    """Both computed in bfloat16 from the same rounded weights; ours at most 1.25 times theirs."""
    export_checkpoint(run.checkpoint, tmp_path / "out", "bfloat16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())
    theirs = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16).eval()
    exact = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", dtype=torch.float64).eval()
    texts = documents(run)
    rounded = build_model(run.model.config, run.model.named_parameters()).to(torch.bfloat16)
    ours = our_logits(replace(run, model=rounded), texts)
    our_error = their_error = 0.0
    for text, mine in zip(texts, ours, strict=True):
        with torch.no_grad():
            truth = exact(input_ids=text[None]).logits[0]
            other = theirs(input_ids=text[None]).logits[0]
        our_error += float((mine.double() - truth).square().sum())
        their_error += float((other.double() - truth).square().sum())
    assert their_error > 0
    assert our_error**0.5 <= 1.25 * their_error**0.5


def test_tokenizer_serves_modernbert(exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported)
    encoded = tokenizer("the old town")
    assert set(encoded) == {"input_ids", "attention_mask"}  # ModernBERT takes no token types
    assert encoded["input_ids"][0] == 2
    assert encoded["input_ids"][-1] == 1
    assert tokenizer.model_max_length == 256
    assert (tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id) == (2, 1, 4)
    assert not (exported / "description.json").exists()


def test_fill_mask_pipeline_and_our_fillings_agree(exported: Path) -> None:
    sentence = "the river runs past the old <mask> and under seven bridges"
    fillings = fill_masks(exported, [sentence, "der [MASK] regen <mask>"], top=5)
    assert [len(masks) for masks in fillings] == [1, 2]
    best = fillings[0][0]
    assert len(best) == 5
    assert best == sorted(best, key=lambda filling: -filling.probability)
    answers = pipeline("fill-mask", model=str(exported), device="cpu")(sentence)
    assert [answer["score"] for answer in answers] == pytest.approx(
        [filling.probability for filling in best], rel=1e-4
    )
    assert answers[0]["token_str"].strip() == best[0].text.strip()
    with pytest.raises(UserError, match="has no mask"):
        fill_masks(exported, ["nothing to fill"])


def test_works_in_sentence_transformers(run: Run, exported: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(exported), device="cpu")
    vectors = model.encode(["the old town", "die alte stadt"], convert_to_tensor=True)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    texts = [torch.tensor(tokenizer(text)["input_ids"]) for text in ("the old town",)]
    bases = run.recipe.phases[-1].rotary_bases
    mean = run.model.hidden_states(pack(texts), rotary_bases=bases).mean(0)
    assert torch.allclose(vectors[0], mean, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # of the exporter, about itself
def test_exports_to_onnx_and_runs_there(run: Run, exported: Path, tmp_path: Path) -> None:
    """With both dimensions free: other lengths and batches than the one it was traced with."""
    import onnxruntime

    model = AutoModelForMaskedLM.from_pretrained(exported).eval()

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    traced = torch.randint(5, 200, (2, 50), generator=torch.Generator().manual_seed(0))
    free = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Logits(),
        (traced, torch.ones_like(traced)),
        str(tmp_path / "model.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={"input_ids": free, "attention_mask": free, "logits": free},
        opset_version=18,
        dynamo=False,
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    texts = documents(run)
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
    lengths = [len(text) for text in texts]
    mask = (torch.arange(ids.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
    (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    expected = our_logits(run, texts)
    largest = max(float(logits.abs().max()) for logits in expected)
    for ours, theirs, length in zip(expected, found, lengths, strict=True):
        difference = (ours - torch.from_numpy(theirs[:length])).abs().max()
        assert float(difference) <= TOLERANCE * largest


def test_other_heads_load_the_body(exported: Path) -> None:
    """What fine-tuning begins with: nothing of the encoder is missing or new."""
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        exported, num_labels=3, output_loading_info=True
    )
    assert sorted(loading["missing_keys"]) == ["classifier.bias", "classifier.weight"]
    assert model.config.classifier_pooling == "mean"
