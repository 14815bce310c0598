"""Import: bit for bit, with other vocabularies and sizes, and errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    ModernBertConfig,
)

from mmbert.errors import UserError
from mmbert.hub.configuration import read_configuration
from mmbert.hub.export import export_checkpoint
from mmbert.hub.importing.import_model import import_model
from mmbert.hub.importing.striding import StridedSampling, strided_indices
from mmbert.hub.importing.vocabulary import change_vocabulary
from mmbert.hub.model_source import HuggingFaceSource
from mmbert.hub.tokenizer import FastTokenizer
from mmbert.recipe import ModelSettings
from mmbert_prep.tokenization.folder import write_huggingface_folder
from tests.support.external_model import EMBEDDING, external_model, stored
from tests.support.tokenizers import (
    SENTENCES,
    byte_level_tokenizer,
    metaspace_tokenizer,
    modernbert_like_tokenizer,
    save_tokenizer,
)
from tests.support.transformers_versions import kinds_of_layers, rotary_bases

NEW_SENTENCES = [*SENTENCES, *["miji ya kale haina madaraja makubwa kando ya mto mrefu"] * 8]


def test_weights_come_in_and_go_out_bit_for_bit(their_folder: Path, tmp_path: Path) -> None:
    report = import_model(their_folder, tmp_path / "imported")
    theirs, ours = stored(their_folder), stored(tmp_path / "imported")
    assert theirs.keys() - {"decoder.weight"} == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert report.model.rotary_bases.global_ == 30_000
    assert report.model.rotary_bases.local_ == 700
    export_checkpoint(tmp_path / "imported", tmp_path / "out")
    again = stored(tmp_path / "out")
    assert all(torch.equal(again[name], ours[name]) for name in ours)
    inputs = AutoTokenizer.from_pretrained(their_folder)("an old bridge", return_tensors="pt")
    inputs.pop("token_type_ids", None)
    logits = []
    for folder in (their_folder, tmp_path / "out"):
        model = AutoModelForMaskedLM.from_pretrained(folder).eval()
        with torch.no_grad():
            logits.append(model(**inputs).logits)
    # float32 rounding: the summation order of a matmul depends on the alignment of its weights.
    torch.testing.assert_close(*logits, rtol=1e-5, atol=1e-6)


def test_bfloat16_weights_come_through_unchanged(tmp_path: Path) -> None:
    folder = external_model(tmp_path / "theirs", torch.bfloat16)
    import_model(folder, tmp_path / "imported")
    export_checkpoint(tmp_path / "imported", tmp_path / "out", "bfloat16")
    theirs, ours = stored(folder), stored(tmp_path / "out")
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert ours[EMBEDDING].dtype == torch.bfloat16


def test_config_of_4_48_and_of_5_mean_the_same(their_folder: Path, tmp_path: Path) -> None:
    text = json.loads((their_folder / "config.json").read_text())
    if "rope_parameters" not in text:  # transformers before 5: add what 5 writes
        bases = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
        plain = {"rope_type": "default"}
        rope = {kind: plain | {"rope_theta": text.pop(key)} for kind, key in bases.items()}
        text |= {"rope_parameters": rope}
    (tmp_path / "config.json").write_text(json.dumps(text))
    modern = read_configuration(tmp_path)
    import_model(their_folder, tmp_path / "legacy")
    legacy = read_configuration(tmp_path / "legacy")
    assert "rope_parameters" not in json.loads((tmp_path / "legacy" / "config.json").read_text())
    assert legacy == modern


def test_defaults_of_transformers_are_ours(tmp_path: Path) -> None:
    """Missing bases, windows and layer types have the defaults of transformers."""
    sizes = {
        "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "num_attention_heads": 4,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert", **sizes}))
    ours, theirs = read_configuration(tmp_path), ModernBertConfig(**sizes)
    assert (ours.rotary_bases.global_, ours.rotary_bases.local_) == rotary_bases(theirs)
    assert ours.context == theirs.max_position_embeddings
    assert ours.encoder.local_window == theirs.local_attention
    assert ours.encoder.norm_eps == theirs.norm_eps
    pattern = [ours.encoder.attends_globally(layer) for layer in range(6)]
    assert pattern == [kind == "full_attention" for kind in kinds_of_layers(theirs)]


def test_a_local_base_of_null_means_the_global_one(tmp_path: Path) -> None:
    config = {
        "model_type": "modernbert", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 96,
        "num_hidden_layers": 6, "num_attention_heads": 4, "global_rope_theta": 5e4,
        "local_rope_theta": None,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_configuration(tmp_path).rotary_bases.local_ == 5e4


@pytest.mark.parametrize("new", ["metaspace", "byte level"])
@pytest.mark.parametrize("initialization", ["subwords", "mean"])
def test_a_new_tokenizer_keeps_the_rows_of_tokens_it_shares(
    their_folder: Path, tmp_path: Path, new: str, initialization: str
) -> None:
    make = metaspace_tokenizer if new == "metaspace" else byte_level_tokenizer
    save_tokenizer(tmp_path / "tokenizer", make(NEW_SENTENCES, 450))
    report = import_model(
        their_folder,
        tmp_path / "out",
        tokenizer=tmp_path / "tokenizer",
        initialization=initialization,
    )
    old, fresh = FastTokenizer(their_folder), FastTokenizer(tmp_path / "tokenizer")
    before, after = stored(their_folder), stored(tmp_path / "out")
    assert after[EMBEDDING].shape == (fresh.size, 64)
    assert after["decoder.bias"].shape == (fresh.size,)
    change = report.vocabulary
    assert change is not None
    assert change.kept > 100
    assert (change.composed > 0) == (initialization == "subwords")
    old_rows = {old.token_bytes(token): number for token, number in old.vocabulary.items()}
    mean = before[EMBEDDING].double().mean(0).float()
    checked = {"kept": 0, "new": 0}
    for token, number in fresh.vocabulary.items():
        content = fresh.token_bytes(token)
        if number < 5:  # special tokens match by role and have the same ids here
            assert torch.equal(after[EMBEDDING][number], before[EMBEDDING][number])
        elif content in old_rows:
            checked["kept"] += 1
            for name in (EMBEDDING, "decoder.bias"):
                assert torch.equal(after[name][number], before[name][old_rows[content]])
        else:
            checked["new"] += 1
            pieces = old.encode(content.decode()) if initialization == "subwords" else []
            expected = before[EMBEDDING][pieces].mean(0) if pieces else mean
            assert torch.allclose(after[EMBEDDING][number], expected, atol=1e-6)
    assert min(checked.values()) > 5
    body = set(before) - {EMBEDDING, "decoder.bias", "decoder.weight"}
    assert all(torch.equal(before[name], after[name]) for name in body)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(tokenizer) == fresh.size


def test_extended_tokenizer_keeps_every_old_row_in_its_place(
    their_folder: Path, tmp_path: Path
) -> None:
    tokenizer = byte_level_tokenizer()
    size = tokenizer.get_vocab_size()
    tokenizer.add_tokens(["madaraja", "makubwa"])
    save_tokenizer(tmp_path / "tokenizer", tokenizer)
    report = import_model(their_folder, tmp_path / "out", tokenizer=tmp_path / "tokenizer")
    before, after = stored(their_folder), stored(tmp_path / "out")
    assert torch.equal(after[EMBEDDING][:size], before[EMBEDDING])
    assert after[EMBEDDING].shape[0] == size + 2
    assert report.vocabulary is not None
    assert (report.vocabulary.kept, report.vocabulary.composed) == (size, 2)


def test_special_tokens_correspond_by_role_not_by_name(their_folder: Path, tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "tokenizer", byte_level_tokenizer())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        path = tmp_path / "tokenizer" / name
        path.write_text(path.read_text().replace("<mask>", "[MASK]").replace("<bos>", "[CLS]"))
    change = change_vocabulary(
        FastTokenizer(their_folder), FastTokenizer(tmp_path / "tokenizer"), "subwords"
    )
    assert [change.sources[number] for number in range(5)] == [(n,) for n in range(5)]


def test_special_tokens_that_lie_elsewhere_keep_their_roles(tmp_path: Path) -> None:
    """ModernBERT's special tokens follow the text, have BERT's names, and swap pad and end."""
    save_tokenizer(tmp_path / "old", metaspace_tokenizer())
    modernbert_like_tokenizer(tmp_path / "new")
    old, new = FastTokenizer(tmp_path / "old"), FastTokenizer(tmp_path / "new")
    change = change_vocabulary(old, new, "subwords")
    roles = {"[PAD]": "<pad>", "[CLS]": "<bos>", "[SEP]": "<eos>", "[UNK]": "<unk>",
             "[MASK]": "<mask>"}  # fmt: skip
    for theirs, ours in roles.items():
        assert change.sources[new.vocabulary[theirs]] == (old.vocabulary[ours],)
    specials = {old.vocabulary[name] for name in roles.values()}
    others = set(range(new.size)) - {new.vocabulary[name] for name in roles}
    assert not specials & {source for number in others for source in change.sources[number]}


def test_preparation_and_import_give_a_token_the_same_role(tmp_path: Path) -> None:
    """The tokens that frame a text are begin and end, even if others have names of these roles."""
    modernbert_like_tokenizer(tmp_path / "given")
    path = tmp_path / "given" / "tokenizer_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"bos_token": "[unused1]", "eos_token": "[unused2]"}))
    imported = FastTokenizer(tmp_path / "given")
    assert imported.special_ids is not None
    assert imported.special_ids.begin == imported.vocabulary["[CLS]"]
    assert imported.special_ids.end == imported.vocabulary["[SEP]"]
    prepared = write_huggingface_folder(tmp_path / "prepared", tmp_path / "given")
    assert prepared.special_ids == imported.special_ids


def test_what_the_old_tokenizer_cannot_spell_has_no_part_in_a_row(tmp_path: Path) -> None:
    """A token with an unknown character starts from the mean of its known subwords."""
    save_tokenizer(tmp_path / "old", metaspace_tokenizer())
    extended = metaspace_tokenizer()
    extended.add_tokens(["town☃bridge", "☃☃"])
    save_tokenizer(tmp_path / "new", extended)
    old, new = FastTokenizer(tmp_path / "old"), FastTokenizer(tmp_path / "new")
    unknown = old.vocabulary["<unk>"]
    spelt = old.encode_bytes("town☃bridge".encode())
    assert unknown in spelt
    change = change_vocabulary(old, new, "subwords")
    expected = tuple(number for number in spelt if number != unknown)
    assert len(expected) > 1
    assert change.sources[new.vocabulary["town☃bridge"]] == expected
    assert change.sources[new.vocabulary["☃☃"]] == ()
    assert (change.composed, change.averaged) == (1, 1)


def test_strided_sampling_takes_evenly_spaced_channels_heads_and_layers(
    their_folder: Path, tmp_path: Path
) -> None:
    sizes = ModelSettings(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=2
    )
    import_model(their_folder, tmp_path / "out", sizes=sizes)
    large, small = stored(their_folder), stored(tmp_path / "out")
    hidden = torch.arange(0, 64, 2)
    inner = torch.arange(0, 96, 2)
    assert torch.equal(small[EMBEDDING], large[EMBEDDING][:, hidden])
    assert torch.equal(small["decoder.bias"], large["decoder.bias"])
    # Layers 0 and 3 are global in both models; 1 and 2 come from local layers.
    for ours, theirs in ((0, 0), (1, 2), (2, 4), (3, 3)):
        few, many = f"model.layers.{ours}", f"model.layers.{theirs}"
        qkv = large[f"{many}.attn.Wqkv.weight"].view(3, 4, 16, 64)[:, [0, 2]][..., hidden]
        assert torch.equal(small[f"{few}.attn.Wqkv.weight"], qkv.reshape(96, 32))
        out = large[f"{many}.attn.Wo.weight"].view(64, 4, 16)[hidden][:, [0, 2]]
        assert torch.equal(small[f"{few}.attn.Wo.weight"], out.reshape(32, 32))
        both = large[f"{many}.mlp.Wi.weight"].view(2, 96, 64)[:, inner][..., hidden]
        assert torch.equal(small[f"{few}.mlp.Wi.weight"], both.reshape(96, 32))
        down = large[f"{many}.mlp.Wo.weight"][hidden][:, inner]
        assert torch.equal(small[f"{few}.mlp.Wo.weight"], down)
        norm = large[f"{many}.mlp_norm.weight"][hidden]
        assert torch.equal(small[f"{few}.mlp_norm.weight"], norm)
    assert read_configuration(tmp_path / "out").encoder.num_hidden_layers == 4


def test_small_from_base_keeps_all_layers_and_inner_channels(their_folder: Path) -> None:
    """mmBERT small has the depth and inner width of base, and half its width and heads."""
    source = read_configuration(their_folder).encoder
    target = replace(source, hidden_size=32, num_attention_heads=2)
    sampling = StridedSampling(source, target)
    weights = HuggingFaceSource(their_folder).weights
    for layer in range(6):
        name = f"model.layers.{layer}.mlp.Wo.weight"
        assert sampling.source_name(name) == name
        assert torch.equal(sampling.read(weights, name), weights.read(name)[::2])


def test_strided_indices() -> None:
    assert strided_indices(12, 6).tolist() == [0, 2, 4, 6, 8, 10]
    assert strided_indices(5, 3).tolist() == [0, 1, 3]
    assert strided_indices(7, 7).tolist() == list(range(7))


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"hidden_size": 128, "num_attention_heads": 8}, "hidden_size 128 is larger"),
        ({"hidden_size": 32, "num_attention_heads": 4}, "head_size is 8"),
    ],
)
def test_sizes_that_sampling_cannot_make(
    their_folder: Path, tmp_path: Path, sizes: dict, says: str
) -> None:
    settings = ModelSettings.model_validate(
        {"intermediate_size": 96, "num_hidden_layers": 6, **sizes}
    )
    with pytest.raises(UserError, match=says):
        import_model(their_folder, tmp_path / "out", sizes=settings)


def test_letters_are_not_mistaken_for_bytes_between_kinds_of_tokenizers(tmp_path: Path) -> None:
    """In a byte-level vocabulary, "Ð" is a byte that is half of a Cyrillic letter."""
    save_tokenizer(tmp_path / "letters", metaspace_tokenizer(["Ð Ðð Ð ð", *SENTENCES]))
    save_tokenizer(tmp_path / "bytes", byte_level_tokenizer())
    letters, in_bytes = FastTokenizer(tmp_path / "letters"), FastTokenizer(tmp_path / "bytes")
    assert "Ð" in letters.vocabulary
    assert "Ð" in in_bytes.vocabulary
    assert in_bytes.token_bytes("Ð") == b"\xd0"
    change = change_vocabulary(letters, in_bytes, "subwords")
    assert change.sources[in_bytes.vocabulary["Ð"]] == ()


def test_a_vocabulary_that_holds_the_word_byte_level_is_not_one(tmp_path: Path) -> None:
    tokenizer = metaspace_tokenizer()
    tokenizer.add_tokens(["ByteLevel"])
    save_tokenizer(tmp_path, tokenizer)
    assert FastTokenizer(tmp_path).token_bytes("▁town") == b" town"


@pytest.mark.parametrize("kind", ["byte level", "metaspace"])
def test_new_words_are_spelt_exactly(tmp_path: Path, kind: str) -> None:
    """A tokenizer that prepends a space adds none to a word that has one, and encodes the inside of
    a word like its beginning."""
    make = metaspace_tokenizer if kind == "metaspace" else byte_level_tokenizer
    save_tokenizer(tmp_path, make())
    tokenizer = FastTokenizer(tmp_path)
    for word in (b"bridgerain", b" bridgerain", b" town window", b"reads"):
        ids = tokenizer.encode_bytes(word)
        names = {number: token for token, number in tokenizer.vocabulary.items()}
        spelt = b"".join(tokenizer.token_bytes(names[number]) for number in ids)
        adds_space = kind == "metaspace" and not word.startswith(b" ")
        assert spelt == (b" " + word if adds_space else word)
    assert tokenizer.encode_bytes(b"\xd0") == []
