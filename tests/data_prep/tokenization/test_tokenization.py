"""Tokenizers: special ids, equality with the fast tokenizer, text that resembles special tokens."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mmbert.errors import UserError
from mmbert_prep.tokenization.adversarial import ADVERSARIAL_TEXTS
from mmbert_prep.tokenization.encoders import (
    Encoder,
    HuggingFaceEncoder,
    SentencePieceEncoder,
    open_encoder,
)
from mmbert_prep.tokenization.fast_encoder import FastEncoder
from mmbert_prep.tokenization.folder import (
    check_identity,
    is_huggingface_folder,
    same_tokenizer,
    saved_settings,
    write_huggingface_folder,
    write_sentencepiece_folder,
)
from mmbert_prep.tokenization.text_splitter import LONG_CHARACTERS, TextSplitter, encode_in_chunks
from mmbert_prep.tokenization.training import train_bpe
from tests.support.texts import documents

LANGUAGES = ("eng_Latn", "rus_Cyrl", "hin_Deva", "cmn_Hani", "yor_Latn")
SAMPLES = [(language, text) for language in LANGUAGES for text in documents(language, 60)]


@pytest.fixture(scope="module")
def model() -> bytes:
    return train_bpe([text for _, text in SAMPLES], 1200, threads=1)


@pytest.fixture(scope="module")
def folder(model: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    write_sentencepiece_folder(path, model, SAMPLES)
    return path


@pytest.fixture(scope="module")
def gemma_like() -> bytes:
    """A model in which <mask> is a user-defined piece with id 4, as in Gemma."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace("\n", " ") for _, text in SAMPLES),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=900,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        user_defined_symbols=["<mask>", "<unused0>", "\n"],
        minloglevel=2,
    )
    return buffer.getvalue()


def test_training_is_reproducible_and_has_the_special_ids(model: bytes, folder: Path) -> None:
    assert train_bpe([text for _, text in SAMPLES], 1200, threads=2) == model
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.vocab_size() == 1200
    names = [processor.id_to_piece(id_) for id_ in range(5)]
    assert names == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    description = json.loads((folder / "description.json").read_text())
    assert description["special_ids"] == {"pad": 0, "begin": 2, "end": 1, "unknown": 3, "mask": 4}
    assert description["vocabulary_size"] == 1200


def test_text_comes_back_and_never_gives_a_reserved_id(folder: Path) -> None:
    encoder = open_encoder(folder)
    for text, ids in zip(ADVERSARIAL_TEXTS, encoder.encode(ADVERSARIAL_TEXTS), strict=True):
        assert not np.isin(ids, encoder.description.special_ids.all()).any(), text
        # Decoding cannot distinguish U+2581 from a space.
        assert encoder.decode(ids) == text.replace("\u2581", " ")


def test_a_literal_mask_is_text_in_a_gemma_like_model(gemma_like: bytes, tmp_path: Path) -> None:
    raw = sentencepiece.SentencePieceProcessor(model_proto=gemma_like)
    text = "fill <mask> and <eos> in"
    assert 4 in raw.encode(text), "the unmodified model matches <mask>"
    write_sentencepiece_folder(tmp_path / "t", gemma_like, SAMPLES)
    encoder = open_encoder(tmp_path / "t")
    [ids] = encoder.encode([text])
    assert not np.isin(ids, [0, 1, 2, 3, 4]).any()
    assert encoder.decode(ids) == text
    unused = raw.piece_to_id("<unused0>")
    assert unused in encoder.encode(["a <unused0> b"])[0], "only reserved pieces are changed"
    (tmp_path / "given.model").write_bytes(gemma_like)
    assert same_tokenizer(tmp_path / "given.model", tmp_path / "t")
    assert not same_tokenizer(tmp_path / "missing.model", tmp_path / "t")


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
def test_the_fast_twin_agrees_on_any_text(folder: Path, text: str) -> None:
    encoder = open_encoder(folder)
    fast = HuggingFaceEncoder((folder / "tokenizer.json").read_bytes(), encoder.description)
    assert np.array_equal(encoder.encode([text])[0], fast.encode([text])[0])


def test_transformers_loads_the_folder(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = open_encoder(folder)
    for _, text in SAMPLES[::20]:
        ids = tokenizer(text)["input_ids"]
        assert ids == [2, *encoder.encode([text])[0].tolist(), 1]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.mask_token_id == 4
    assert tokenizer.pad_token_id == 0
    assert tokenizer.cls_token_id == 2
    assert tokenizer.sep_token_id == 1
    # A mask in the text of a user is a mask token, which includes the space before it.
    word = tokenizer("word")["input_ids"][1:-1]
    assert tokenizer("word <mask>")["input_ids"] == [2, *word, 4, 1]


def test_a_difference_is_found_and_told(folder: Path) -> None:
    encoder = open_encoder(folder)
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["merges"] = data["model"]["merges"][:-100]
    other = HuggingFaceEncoder(json.dumps(data).encode(), encoder.description)
    with pytest.raises(UserError, match="differ on"):
        check_identity(encoder, other, SAMPLES)


class _WrongAbout:
    """The encoder, except that it loses the last token of one text."""

    def __init__(self, encoder: Encoder, text: str) -> None:
        self.description = encoder.description
        self._encoder, self._text = encoder, text

    def encode(self, texts: list[str]) -> list[np.ndarray]:
        found = self._encoder.encode(texts)
        return [
            ids[:-1] if text == self._text else ids for text, ids in zip(texts, found, strict=True)
        ]


@pytest.mark.parametrize("place", [0, 1, 6, 7, 13, -1])
def test_a_difference_on_a_single_text_is_found(folder: Path, place: int) -> None:
    """At any position of the compared batches, including the incomplete last one."""
    encoder = open_encoder(folder)
    samples = SAMPLES[::9][:17]
    language, text = samples[place]
    wrong = cast(Encoder, _WrongAbout(encoder, text))
    with pytest.raises(UserError, match=f"differ on {language}"):
        check_identity(encoder, wrong, samples, batch=7)


def test_models_without_a_mask_are_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for _, text in SAMPLES),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=600,
        pad_id=3,
        minloglevel=2,
    )
    with pytest.raises(UserError, match="no piece for 'mask'"):
        write_sentencepiece_folder(tmp_path / "t", buffer.getvalue(), SAMPLES)
    with pytest.raises(UserError, match="not a SentencePiece model"):
        write_sentencepiece_folder(tmp_path / "t", b"nonsense", SAMPLES)
    assert not (tmp_path / "t").exists()


def _other_model(kind: str, **changes: object) -> bytes:
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for _, text in SAMPLES),
        model_writer=buffer,
        model_type=kind,
        vocab_size=550,
        byte_fallback=True,
        pad_id=3,
        control_symbols=["<mask>"],
        minloglevel=2,
        **changes,
    )
    return buffer.getvalue()


@pytest.mark.parametrize("prefix", [False, True])
def test_models_that_put_a_space_first(prefix: bool, tmp_path: Path) -> None:
    model = _other_model(
        "bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
    )
    write_sentencepiece_folder(tmp_path / "t", model, SAMPLES)
    encoder = open_encoder(tmp_path / "t")
    text = " ".join(documents("eng_Latn", 4000))
    short, long = encoder.encode(["ab cd", text])
    assert encoder.decode(short) == "ab cd"
    assert encoder.decode(long) == text
    whole = sentencepiece.SentencePieceProcessor(model_proto=model).encode(text)
    assert long.tolist() == whole


def test_a_model_that_cannot_be_converted_faithfully_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="differ on"):
        write_sentencepiece_folder(tmp_path / "t", _other_model("bpe"), SAMPLES)
    with pytest.raises(UserError, match="only BPE models"):
        write_sentencepiece_folder(tmp_path / "t", _other_model("unigram"), SAMPLES)
    assert not (tmp_path / "t").exists()


def test_a_hugging_face_folder_is_used_as_it_is(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "given"
    source.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (source / name).write_bytes((folder / name).read_bytes())
    description = write_huggingface_folder(tmp_path / "t", source)
    assert description.kind == "huggingface"
    encoder, original = open_encoder(tmp_path / "t"), open_encoder(folder)
    assert description.special_ids == original.description.special_ids
    texts = [text for _, text in SAMPLES[::7]] + list(ADVERSARIAL_TEXTS[:300])
    for ours, theirs in zip(encoder.encode(texts), original.encode(texts), strict=True):
        assert np.array_equal(ours, theirs)
    assert np.array_equal(encoder.byte_ids, original.byte_ids)
    assert same_tokenizer(source, tmp_path / "t")
    assert is_huggingface_folder(source)
    assert not is_huggingface_folder(folder)
    definition = json.loads((source / "tokenizer.json").read_text())
    (source / "tokenizer.json").write_text(json.dumps(definition, indent=2))
    assert same_tokenizer(source, tmp_path / "t"), "saved again by another version"
    assert saved_settings(source) == []
    used = Tokenizer.from_str(json.dumps(definition))
    used.enable_truncation(64)
    used.save(str(source / "tokenizer.json"))
    assert saved_settings(source) == ["truncation"]
    assert same_tokenizer(source, tmp_path / "t"), "padding and truncation are set aside"
    assert same_tokenizer(source, folder), "the SentencePiece model's own conversion"
    (source / "tokenizer.json").write_text(json.dumps(definition | {"normalizer": None}))
    assert not same_tokenizer(source, tmp_path / "t")
    (source / "tokenizer.model").write_bytes(b"beside it")
    assert is_huggingface_folder(source)
    config = json.loads((source / "tokenizer_config.json").read_text())
    del config["mask_token"]
    (source / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="defines no mask_token"):
        write_huggingface_folder(tmp_path / "u", source)
    with pytest.raises(UserError, match="not a fast tokenizer"):
        write_huggingface_folder(tmp_path / "u", tmp_path)


def test_long_texts_are_encoded_in_parts_with_the_same_ids(model: bytes, folder: Path) -> None:
    encoder = open_encoder(folder)
    raw = sentencepiece.SentencePieceProcessor(model_proto=model)
    for language in LANGUAGES:
        text = " ".join(documents(language, 3500))
        text = text * (1 + LONG_CHARACTERS // len(text))
        assert len(text) > LONG_CHARACTERS
        [ids] = encoder.encode([text])
        assert ids.tolist() == raw.encode(text)
    [ids] = encoder.encode(["a" * (2 * LONG_CHARACTERS + 7)])
    assert encoder.decode(ids) == "a" * (2 * LONG_CHARACTERS + 7)
    fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "\n".join(documents("eng_Latn", 4000))
    [ids] = HuggingFaceEncoder(
        (folder / "tokenizer.json").read_bytes(), encoder.description
    ).encode([text])
    assert ids.tolist() == fast.encode(text, add_special_tokens=False).ids


@given(
    st.text(alphabet="ab \n", max_size=400),
    st.lists(st.text(alphabet="ab\u2581", max_size=3)),
    st.integers(1, 70_000),
)
def test_parts_join_to_the_text(text: str, pieces: list[str], characters: int) -> None:
    long_text = text * 500
    assert "".join(TextSplitter(pieces).split(long_text, characters)) == long_text
    assert (
        " ".join(TextSplitter(pieces).split(long_text, characters, at_spaces_only=True))
        == long_text
    )


@pytest.fixture(scope="module", params=["byte fallback", "no byte fallback"])
def processor(request: pytest.FixtureRequest) -> sentencepiece.SentencePieceProcessor:
    """A model that does not change the beginning of a text and lacks many characters."""
    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text.replace("\n", " ") for _, text in SAMPLES[:200]),
        model_writer=buffer,
        model_type="bpe",
        vocab_size=550,
        byte_fallback=request.param == "byte fallback",
        character_coverage=0.98,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=["\n", "\n\n", "\u2581\u2581", "ab"],
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())


@settings(max_examples=400, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["the ", "ing", " ", "\n", "\u2581", "ab", "a", "b", "\u4e0d\u540c", "\U0001f600", "и"]
            + [text[:60] for _, text in SAMPLES[::9]]
        ),
        max_size=40,
    ).map("".join),
    st.integers(1, 40),
)
def test_short_parts_give_the_ids_of_the_whole(
    processor: sentencepiece.SentencePieceProcessor, text: str, characters: int
) -> None:
    unknown_joins = not any(processor.is_byte(id_) for id_ in range(len(processor)))
    pieces = [processor.id_to_piece(id_) for id_ in range(len(processor))]
    cutter = TextSplitter(pieces, joins_unknown=unknown_joins)
    [ids] = encode_in_chunks(
        [text],
        lambda text: cutter.split(text, characters),
        lambda parts: processor.encode(parts, return_type="numpy"),
    )
    assert ids.tolist() == processor.encode(text)


class _Wrong:
    """Mock of kitoken: correct except for texts with a certain word."""

    def __init__(self, encoder: SentencePieceEncoder, word: str) -> None:
        self._encoder, self._word = encoder, word
        self.calls = 0

    def encode(self, text: str, _: bool) -> list[int]:
        self.calls += 1
        ids = self._encoder.encode([text])[0].tolist()
        return ids[:-1] if self._word in text else ids


def _accelerated(folder: Path, expected: int = 10**9) -> FastEncoder:
    encoder = open_encoder(folder)
    assert isinstance(encoder, SentencePieceEncoder)
    model = (folder / "tokenizer.model").read_bytes()
    return FastEncoder(encoder, model, {"eng_Latn": expected})


def test_kitoken_is_proven_before_it_is_used(folder: Path) -> None:
    accelerated = _accelerated(folder)
    assert accelerated.enabled
    texts = documents("eng_Latn", 3300)
    for start in range(0, len(texts), 150):
        batch = texts[start : start + 150]
        ids = accelerated.encode(batch, ["eng_Latn"] * len(batch))
        for ours, theirs in zip(ids, accelerated.reference.encode(batch), strict=True):
            assert np.array_equal(ours, theirs)
    assert accelerated.checked == 200 + 3
    few = _accelerated(folder, expected=1000)
    few.encode(texts[:300], ["eng_Latn"] * 300)
    assert few.checked == 0, "verification does not pay off for little text"


def test_a_difference_while_proving_falls_back(folder: Path) -> None:
    accelerated = _accelerated(folder)
    accelerated._fast = _Wrong(accelerated.reference, "wrong")
    texts = [*documents("eng_Latn", 100), "a wrong word", *documents("eng_Latn", 300), "wrong"]
    ids = accelerated.encode(texts, ["eng_Latn"] * len(texts))
    for ours, theirs in zip(ids, accelerated.reference.encode(texts), strict=True):
        assert np.array_equal(ours, theirs)
    assert not accelerated.enabled
    calls = accelerated._fast.calls
    accelerated.encode(texts, ["eng_Latn"] * len(texts))
    assert accelerated._fast.calls == calls, "not called again"


def test_a_difference_after_proving_stops_the_run(folder: Path) -> None:
    accelerated = _accelerated(folder)
    texts = documents("eng_Latn", 250)
    accelerated.encode(texts, ["eng_Latn"] * 250)
    accelerated._fast = _Wrong(accelerated.reference, "wrong")
    with pytest.raises(UserError, match="--fast-encoder none"):
        accelerated.encode(["a wrong word"] * 1000, ["eng_Latn"] * 1000)
