"""Training a tokenizer where characters are many, spaces are few, or the vocabulary is wrong."""

import random
import re

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from mmbert.errors import TextError
from mmbert_prep.tokenization.training import train_bpe

HAN = "".join(chr(0x4E00 + number) for number in range(4500))
ETHIOPIC = "".join(chr(0x1200 + number) for number in range(0x15B))
LATIN = "abcdefghijklmnopqrstuvwxyz"


def texts(*alphabets: str, documents: int = 300, space: str = "") -> list[str]:
    """Return documents of random characters, some of them rare, each in one of the alphabets."""
    generator = random.Random(5)
    found = []
    for number in range(documents):
        alphabet = alphabets[number % len(alphabets)]
        weights = [1 / (rank + 8) for rank in range(len(alphabet))]
        words = ["".join(generator.choices(alphabet, weights, k=20)) for _ in range(20)]
        found.append(space.join(words) + "。")
    return found


def trained(given: list[str], size: int) -> sentencepiece.SentencePieceProcessor:
    model = train_bpe(given, size, threads=1)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.vocab_size() == size
    for text in [*given, "a b", "\u9f98 龘\u1360 ü 🙂"]:
        assert processor.decode(processor.encode(text)) == text.replace("\u2581", " ")
        assert processor.unk_id() not in processor.encode(text)
    return processor


def long_pieces(processor: sentencepiece.SentencePieceProcessor) -> list[str]:
    """Return the pieces of several characters that are neither bytes nor layout nor control."""
    special = [processor.is_byte(n) or processor.is_control(n) for n in range(len(processor))]
    pieces = [processor.id_to_piece(n) for n in range(len(processor)) if not special[n]]
    return [p for p in pieces if len(p) > 1 and p != "<unk>" and p.strip("\n\t\u2581")]


@pytest.mark.parametrize("size", [2000, 4000, 8000])
def test_more_characters_than_the_vocabulary_takes(size: int) -> None:
    processor = trained(texts(HAN), size)
    assert len(long_pieces(processor)) > size / 4
    single = {processor.id_to_piece(n) for n in range(size)} & set(HAN)
    assert 0.35 * size < len(single) <= 0.4 * size
    rare, frequent = HAN[-1], HAN[0]
    assert len(processor.encode(frequent)) == 1
    if size == 2000:
        assert [processor.is_byte(n) for n in processor.encode(rare)] == [True] * 3


def test_mixed_scripts_share_a_small_vocabulary() -> None:
    given = texts(HAN, ETHIOPIC, LATIN, space=" ")
    pieces = "".join(long_pieces(trained(given, 2000)))
    assert all(set(pieces) & set(alphabet) for alphabet in (HAN, ETHIOPIC, LATIN))
    assert train_bpe(given, 2000, threads=2) == train_bpe(given, 2000, threads=1)


@pytest.mark.parametrize("added", ["", "\u2585", "\x00", " \u2581 "])
def test_text_that_sentencepiece_alone_would_lose_comes_back(added: str) -> None:
    """Without a piece for the space, it is decoded as U+2581; lines with U+2585 are skipped."""
    trained([text[:200] + added + text[200:] for text in texts(LATIN)], 400)


def sizes_named(error: TextError) -> list[int]:
    """Return the vocabularies that the remedy names."""
    found = re.search(r"--vocab-size (?:of at least|from) (\d+)(?: to (\d+))?", error.remedy)
    return [int(size) for size in found.groups() if size] if found else []


def refused(given: list[str], size: int) -> TextError:
    with pytest.raises(TextError) as caught:
        train_bpe(given, size, threads=1)
    return caught.value


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 700),
    st.sampled_from([LATIN[0], ETHIOPIC[0], HAN[0]]),
    st.sampled_from(["", " ", "  ", "\t", " " * 17]),
    st.integers(1, 12),
    st.integers(300, 3000),
    st.integers(0, 10),
)
def test_the_sizes_that_an_error_names_are_the_ends_of_those_that_work(
    characters: int, first: str, space: str, documents: int, size: int, seed: int
) -> None:
    generator = random.Random(seed)
    alphabet = [chr(ord(first) + number) for number in range(characters)] + [space] * 3
    weights = [1 / (rank + 3) for rank in range(len(alphabet))]
    given = ["".join(generator.choices(alphabet, weights, k=80)) for _ in range(documents)]
    try:
        trained(given, size)
    except TextError as error:
        named, said = sizes_named(error), str(error)
    else:
        return
    assert named or "more text" in said
    for works in named:
        trained(given, works)
    if named and named[0] > 300:
        refused(given, named[0] - 1)
    if len(named) == 2:
        assert named[1] < size
        refused(given, named[1] + 1)


def test_a_vocabulary_that_cannot_work_is_refused_with_those_that_can() -> None:
    given = texts(HAN, documents=60)
    small = refused(given, 400)
    assert "a vocabulary of 400 is too small" in small.message
    assert sizes_named(small) == [479]
    large = refused(given, 10**6)
    assert "too little text for a vocabulary of 1000000" in large.message
    smallest, largest = sizes_named(large)
    assert smallest == 479
    trained(given, smallest)
    trained(given, largest)
    refused(given, largest + 1)


@pytest.mark.parametrize("given", [[], ["  \n \n"], ["\u2585\u2585"], ["a"]])
def test_no_text_is_said(given: list[str]) -> None:
    error = refused(given, 1000)
    assert "text" in error.message
    assert "more text" in error.remedy
    assert not sizes_named(error)
