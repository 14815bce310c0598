"""Exported folders give the trained model's outputs in all modes of transformers."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForMaskedLM,
)

import mmbert.hub.export
from mmbert.errors import UserError
from mmbert.hub.export import export_checkpoint
from mmbert.hub.model_source import CheckpointSource
from mmbert.hub.verification import ExportMismatchError
from mmbert.hub.weights import parameter_shapes, write_weights
from tests.support.file_limits import files_no_longer_than
from tests.support.transformers_versions import kinds_of_layers, rotary_bases
from tests.support.written_runs import TOLERANCE, Run, documents, our_logits, save_run


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("batched", [False, True], ids=["single", "batched with padding"])
def test_logits_equal_transformers(run: Run, exported: Path, attention: str, batched: bool) -> None:
    texts = documents(run)
    expected = our_logits(run, texts)
    model = AutoModelForMaskedLM.from_pretrained(exported, attn_implementation=attention).eval()
    assert model.dtype == torch.float32
    if batched:
        ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=0)
        lengths = torch.tensor([len(text) for text in texts])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=mask).logits
        found = [logits[:n] for logits, n in zip(found, lengths.tolist(), strict=True)]
    else:
        with torch.no_grad():
            found = [model(input_ids=text[None]).logits[0] for text in texts]
    largest = max(float(logits.abs().max()) for logits in expected)
    assert largest > 3  # it has learned something
    worst = max(
        float((ours - theirs).abs().max()) for ours, theirs in zip(expected, found, strict=True)
    )
    print(f"{attention}, batched {batched}: {worst / largest:.1e} of the largest logit")
    assert worst <= TOLERANCE * largest


def test_weights_are_stored_bit_for_bit_and_tied_ones_once(run: Run, exported: Path) -> None:
    stored = load_file(exported / "model.safetensors")
    ours = dict(run.model.named_parameters())
    assert stored.keys() == ours.keys()
    assert "decoder.weight" not in stored
    assert "decoder.bias" in stored
    assert "model.layers.0.attn_norm.weight" not in stored
    for name, tensor in stored.items():
        assert torch.equal(tensor, ours[name]), name


def test_config_avoids_the_known_traps(run: Run, exported: Path) -> None:
    config = AutoConfig.from_pretrained(exported)
    assert config.classifier_activation == "gelu"  # used by the head
    assert rotary_bases(config) == (20_000, 500)  # the last phase's, never −1 or 10,000
    assert (config.cls_token_id, config.bos_token_id) == (2, 2)  # not eos, as mmBERT's says
    assert (config.sep_token_id, config.eos_token_id, config.pad_token_id) == (1, 1, 0)
    assert kinds_of_layers(config) == [
        "full_attention", "sliding_attention", "sliding_attention", "full_attention",
    ]  # fmt: skip
    assert config.local_attention // 2 == 8
    assert config.max_position_embeddings == 256
    assert config.tie_word_embeddings
    written = json.loads((exported / "config.json").read_text())
    # Read by 4.48, which knows neither rope_parameters nor layer_types.
    assert (written["global_rope_theta"], written["local_rope_theta"]) == (20_000, 500)
    assert (written["global_attn_every_n_layers"], written["local_attention"]) == (3, 16)


def test_a_checkpoint_of_the_first_phase_has_its_bases_and_context(
    run: Run, tmp_path: Path
) -> None:
    checkpoint = save_run(tmp_path / "run", run.model, phase="first", step=10)
    export_checkpoint(checkpoint, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["global_rope_theta"], written["local_rope_theta"]) == (10_000, 10_000)
    assert written["max_position_embeddings"] == 64


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("classifier_activation", "silu"),
        ("local_rope_theta", 20_000.0),
        ("global_rope_theta", 10_000.0),
        ("local_attention", 18),
        ("global_attn_every_n_layers", 2),
        ("norm_eps", 1e-3),
    ],
)
def test_a_wrong_configuration_does_not_get_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, wrong: object
) -> None:
    right = mmbert.hub.export.hugging_face_config
    monkeypatch.setattr(
        mmbert.hub.export,
        "hugging_face_config",
        lambda *arguments, **options: right(*arguments, **options) | {key: wrong},
    )
    with pytest.raises(ExportMismatchError, match="differ from the trained model"):
        export_checkpoint(run.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["model.layers.1.attn.Wqkv.weight", "head.norm.weight", "decoder.bias"]
)
def test_a_wrongly_written_weight_does_not_get_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write = mmbert.hub.export.write_weights

    def write_wrongly(
        path: Path, shapes: dict, parameters: Iterator[tuple[str, Tensor]], dtype: torch.dtype
    ) -> None:
        wrong = ((n, t.roll(1, 0) if n == name else t) for n, t in parameters)
        write(path, shapes, wrong, dtype)

    monkeypatch.setattr(mmbert.hub.export, "write_weights", write_wrongly)
    with pytest.raises(ExportMismatchError):
        export_checkpoint(run.checkpoint, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_card_says_what_is_known_and_no_more(exported: Path) -> None:
    card = (exported / "README.md").read_text()
    for expected in (
        "license: unknown", "Not stated.", "checkpoint of step 30", "`last`", "tiny-run",
        "| eng_Latn | 30,000 |", "4 languages, 61,440 training tokens", "- swh", "mask_ratio: 0.15",
        "20000 (global layers), 500 (local layers)", "maximum difference",
    ):  # fmt: skip
        assert expected in card, expected
    assert str(exported.parent) not in card  # no local paths are published


def test_provenance_names_the_checkpoint(run: Run, exported: Path) -> None:
    provenance = json.loads((exported / "provenance.json").read_text())
    assert provenance["step"] == 30
    assert provenance["path"] == f"tiny/checkpoints/{run.checkpoint.name}"
    assert provenance["tokenizer"] == "0" * 64


def test_existing_folder_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        export_checkpoint(run.checkpoint, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["precious"]


def test_a_damaged_checkpoint_is_named(run: Run, tmp_path: Path) -> None:
    checkpoint = save_run(tmp_path / "run", run.model)
    file = checkpoint / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"rank-00000.safetensors"):
        export_checkpoint(checkpoint, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["run", "nothing", "no tokenizer"])
def test_what_is_no_checkpoint_says_so(run: Run, tmp_path: Path, what: str) -> None:
    checkpoint = save_run(tmp_path / "run", run.model)
    if what == "run":
        with pytest.raises(UserError, match="is a run") as caught:
            export_checkpoint(tmp_path / "run", tmp_path / "out")
        assert checkpoint.name in caught.value.remedy
    elif what == "nothing":
        with pytest.raises(UserError, match="is not a folder"):
            export_checkpoint(tmp_path / "elsewhere", tmp_path / "out")
    else:
        (tmp_path / "run" / "tokenizer").rename(tmp_path / "moved")
        with pytest.raises(UserError, match="does not exist"):
            CheckpointSource(checkpoint)


def test_a_full_disk_leaves_nothing_behind(run: Run, tmp_path: Path) -> None:
    with files_no_longer_than(100_000), pytest.raises(UserError, match="cannot write"):
        export_checkpoint(run.checkpoint, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_exported_folder_can_be_exported_again(exported: Path, tmp_path: Path) -> None:
    export_checkpoint(exported, tmp_path / "again", "bfloat16")
    first = load_file(exported / "model.safetensors")
    second = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.equal(first[name].bfloat16(), second[name]) for name in first)
    provenance = json.loads((tmp_path / "again" / "provenance.json").read_text())
    assert provenance["made_from"]["step"] == 30


def test_safetensors_library_reads_and_writes_the_same(exported: Path, tmp_path: Path) -> None:
    """The streamed file is an ordinary safetensors file."""
    stored = load_file(exported / "model.safetensors")
    save_file(stored, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    again = load_file(tmp_path / "theirs.safetensors")
    assert all(torch.equal(stored[name], again[name]) for name in stored)


def test_weights_lie_at_their_places_in_whatever_order_they_come(run: Run, tmp_path: Path) -> None:
    shapes = parameter_shapes(run.model.config)
    tensors = {name: tensor.detach() for name, tensor in run.model.named_parameters()}
    backwards = ((name, tensors[name]) for name in reversed(shapes))
    write_weights(tmp_path / "model.safetensors", shapes, backwards, torch.float32)
    stored = load_file(tmp_path / "model.safetensors")
    assert set(stored) == set(shapes)
    assert all(torch.equal(stored[name], tensors[name]) for name in shapes)
