"""What names beside each other are: languages, or ordinary words."""

from __future__ import annotations

import pytest

from mmbert_prep.languages.siblings import take_names

ENGLISH = {"en": "eng_Latn"}


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        # All of them, or most, are languages.
        ("en", ENGLISH),
        ("en fr de", {"en": "eng_Latn", "fr": "fra_Latn", "de": "deu_Latn"}),
        ("en fr scripts", {"en": "eng_Latn", "fr": "fra_Latn"}),
        ("English German", {"English": "eng_Latn", "German": "deu_Latn"}),
        ("aai aak aau abt abx", {n: f"{n}_Latn" for n in ("aai", "aak", "aau", "abt", "abx")}),
        ("pt-BR", {"pt-BR": "por_Latn"}),
        # Words are languages only where all are, and most are written as they are.
        ("en it", {"en": "eng_Latn", "it": "ita_Latn"}),
        ("de en no", {"de": "deu_Latn", "en": "eng_Latn", "no": "nob_Latn"}),
        ("de en no scripts", {"de": "deu_Latn", "en": "eng_Latn"}),
        ("en fr new", {"en": "eng_Latn", "fr": "fra_Latn"}),
        ("en sr wo", {"en": "eng_Latn", "wo": "wol_Latn"}),
        ("en fr azb", {"en": "eng_Latn", "fr": "fra_Latn", "azb": "azb_Arab"}),
        ("en azb", ENGLISH),
        # Code and script of a key are a language anywhere.
        ("data zh-Hans train", {"zh-Hans": "cmn_Hani"}),
        ("data eng_latn raw", {"eng_latn": "eng_Latn"}),
    ],
)
def test_names_beside_languages(names: str, taken: dict[str, str]) -> None:
    found = take_names(names.split())
    assert {name: each.key for name, each in found.items() if each.key} == taken


@pytest.mark.parametrize(
    "names",
    [
        "data", "train", "text", "web", "no", "to", "is", "it", "all", "new", "old", "part", "mix",
        "dev", "test", "raw", "fra_Latn_removed", "eng_Latn-swh_Latn", "2020", "2019 2020 2021",
        "data-00000-of-00001", "train dev test", "is it", "to do", "new old raw", "to-do", "in out",
        "part-0 part-1 part-2", "train test it", "en data", "aai", "Polish", "raw-java", "NO",
        "cs math", "en.wiki dump", "books code arxiv web", "no no_filter", "swa_Ltan",
    ],
)  # fmt: skip
def test_names_that_are_no_languages(names: str) -> None:
    assert {each.key for each in take_names(names.split()).values()} == {None}


def test_many_languages_have_words_among_them() -> None:
    text = "af ar bg bn ca cy da de el en es et eu fa fi fr gl he hu hy ja ka kk ko lt lv mk nl pl"
    common = [name for name in text.split() if take_names([name])[name].key][:20]
    assert len(common) == 20
    assert take_names([*common, "new", "war"])["new"].key == "new_Deva"
    assert take_names([*common[:19], "new"])["new"].key is None
    assert take_names([*common, "new", "data", "raw text", "misc"])["new"].key is None
    assert take_names([*common, "azb", "misc"])["azb"].key == "azb_Arab", "nine in ten are"


def test_why_a_word_is_no_language() -> None:
    found = take_names(["no", "data", "train"])["no"]
    assert (found.candidates, found.wanted) == (("nob_Latn",), False)
    assert found.problem == "it may be a word or nob_Latn; 1 of the 3 names there may be languages"
    found = take_names(["en", "fr", "xx", "sr"])
    assert found["xx"].among_languages
    assert not found["xx"].wanted
    assert found["sr"].wanted
    assert take_names(["data", "fra_Latn_removed"])["fra_Latn_removed"].wanted


def test_names_of_the_user_count_as_languages() -> None:
    assert take_names(["en", "wiki_fr", "wiki_de"])["en"].key is None
    assert take_names(["en", "wiki_fr", "wiki_de"], frozenset({"wiki_fr"}))["en"].key == "eng_Latn"
