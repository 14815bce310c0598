"""Uses of an exported folder: other data types, pipelines, embeddings, ONNX, heads."""

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from mmbert.errors import UserError
from mmbert.hub.export import export_checkpoint
from mmbert.hub.fill_mask import fill_masks
from mmbert.hub.models import build_model, pack
from tests.support.transformers_versions import load_in
from tests.support.written_runs import TOLERANCE, Run, documents, our_logits


def test_bfloat16_folder_and_its_error_against_float64(run: Run, tmp_path: Path) -> None:
    """Both in bfloat16 from the same rounded weights; our error is at most 1.25 times theirs."""
    export_checkpoint(run.checkpoint, tmp_path / "out", "bfloat16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert all(tensor.dtype == torch.bfloat16 for tensor in stored.values())
    theirs = load_in(tmp_path / "out", torch.bfloat16)
    exact = load_in(tmp_path / "out", torch.float64)
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


TEXTS = ["the old town", "die alte stadt am fluss und sieben brücken", "mto"]


def test_sentence_transformers_guesses_nothing(
    run: Run, exported: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Vectors of a padded batch are the means of our hidden states; nothing is warned of."""
    from sentence_transformers import SentenceTransformer

    with warnings.catch_warnings(), caplog.at_level("WARNING"):
        warnings.simplefilter("error")
        model = SentenceTransformer(str(exported), device="cpu")
    theirs = [one.message for one in caplog.records if one.name.startswith("sentence_tr")]
    assert theirs == []
    assert (model.similarity_fn_name, model.max_seq_length) == ("cosine", 256)
    vectors = model.encode(TEXTS, convert_to_tensor=True)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    bases = run.recipe.phases[-1].rotary_bases
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor(tokenizer(text)["input_ids"])
        mean = run.model.hidden_states(pack([ids]), rotary_bases=bases).mean(0)
        assert float((vector - mean).abs().max()) <= TOLERANCE * float(mean.abs().max())


def test_a_folder_without_the_files_is_guessed(
    exported: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What the test above would say, were they missing."""
    from sentence_transformers import SentenceTransformer

    shutil.copytree(exported, tmp_path / "model", ignore=shutil.ignore_patterns("modules.json"))
    with caplog.at_level("INFO"):
        SentenceTransformer(str(tmp_path / "model"), device="cpu")
    guessed = ("initializing a new SentenceTransformer", "No sentence-transformers model found")
    assert any(text in one.message for one in caplog.records for text in guessed)


def test_files_are_those_of_release_3_of_sentence_transformers(exported: Path) -> None:
    """3.4.1 passes the keys to these parameters, and refuses others; later releases read both."""
    modules = json.loads((exported / "modules.json").read_text())
    kind = "sentence_transformers.models."
    assert [(one["path"], one["type"]) for one in modules] == [
        ("", kind + "Transformer"),
        ("1_Pooling", kind + "Pooling"),
    ]
    pooling = json.loads((exported / "1_Pooling" / "config.json").read_text())
    assert [mode for mode, on in pooling.items() if on is True] == [
        "pooling_mode_mean_tokens",
        "include_prompt",
    ]
    assert set(pooling) == {
        "word_embedding_dimension", "pooling_mode_cls_token", "pooling_mode_mean_tokens",
        "pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens", "pooling_mode_lasttoken", "include_prompt",
    }  # fmt: skip
    longest = json.loads((exported / "sentence_bert_config.json").read_text())
    assert longest == {"max_seq_length": 256, "do_lower_case": False}
    settings = json.loads((exported / "config_sentence_transformers.json").read_text())
    assert "__version__" not in settings  # releases before that one would warn


def snippets(card: Path) -> list[str]:
    """Return the programs in a model card, made runnable."""
    found = re.findall(r"```python\n(.+?)```", card.read_text(), flags=re.DOTALL)
    return [text.replace("PATH_OR_NAME", str(card.parent)) for text in found]


def test_the_cards_first_program_fills_a_mask(exported: Path) -> None:
    names: dict[str, Any] = {}
    exec(snippets(exported / "README.md")[0], names)
    assert len(names["fill"]("the old <mask> by the river")) == 5


@pytest.mark.filterwarnings("ignore")  # from the exporter
def test_exports_to_onnx_and_runs_there(
    run: Run, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the card's program, then with other lengths and batch sizes than traced."""
    import onnxruntime

    monkeypatch.chdir(tmp_path)
    exec(snippets(exported / "README.md")[1], {})
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    texts = documents(run)
    expected = our_logits(run, texts)
    largest = max(float(logits.abs().max()) for logits in expected)
    for chosen in ([0, 1, 2, 3], [1], [3, 0]):
        lengths = torch.tensor([len(texts[number]) for number in chosen])
        ids = torch.nn.utils.rnn.pad_sequence([texts[n] for n in chosen], batch_first=True)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        inputs = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        (found,) = session.run(None, inputs)
        for number, theirs in zip(chosen, found, strict=True):
            ours = expected[number]
            difference = (ours - torch.from_numpy(theirs[: len(ours)])).abs().max()
            assert float(difference) <= TOLERANCE * largest


def test_other_heads_load_the_body(exported: Path) -> None:
    """For fine-tuning, no encoder weight is missing or newly initialized."""
    model, loading = AutoModelForSequenceClassification.from_pretrained(
        exported, num_labels=3, output_loading_info=True
    )
    assert sorted(loading["missing_keys"]) == ["classifier.bias", "classifier.weight"]
    assert model.config.classifier_pooling == "mean"
