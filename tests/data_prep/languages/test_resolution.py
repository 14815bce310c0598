"""Codes, tags and names of languages to FineWeb2's keys."""

from __future__ import annotations

import re

import pytest
from babel import localedata
from hypothesis import example, given
from hypothesis import strategies as st
from langcodes import Language, standardize_tag
from langcodes.data_dicts import MACROLANGUAGES

from mmbert.recipe.named import packaged_languages
from mmbert_prep.languages.keys import fineweb2_keys, fineweb2_scripts, is_language_key
from mmbert_prep.languages.nearest import nearest_keys
from mmbert_prep.languages.resolution import resolve

CONTAINED = {"Hans": "Hani", "Hant": "Hani", "Kore": "Hang"}


def test_every_language_of_the_lists_has_a_key() -> None:
    assert len(packaged_languages()) == 1834
    assert packaged_languages() - {"code"} <= set(fineweb2_scripts())
    assert all(map(is_language_key, fineweb2_keys()))
    assert fineweb2_scripts()["srp"] == ("Cyrl", "Latn")
    assert fineweb2_scripts()["cmn"] == ("Hani",)


@given(st.data())
def test_a_key_is_itself_however_it_is_written(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(fineweb2_keys())))
    code, script = key.split("_")
    change = st.sampled_from([str.lower, str.upper, str.title, str])
    separator = data.draw(st.sampled_from("-_"))
    written = f"{data.draw(change)(code)}{separator}{data.draw(change)(script)}"
    assert resolve(key).key == key
    assert resolve(key).certain
    assert resolve(written).key == key, written


def test_all_keys_are_themselves() -> None:
    for key in fineweb2_keys():
        assert resolve(key).key == key
        for written in (key.lower(), key.upper(), key.replace("_", "-")):
            assert resolve(written).key == key, written


def test_a_locale_is_its_own_language_or_none() -> None:
    """By the tables of langcodes; scripts may differ only where FineWeb2 has a single one."""
    identifiers = localedata.locale_identifiers()
    refused = [identifier for identifier in identifiers if resolve(identifier).key is None]
    assert all(resolve(identifier).problem for identifier in refused)
    assert len(refused) < len(identifiers) / 8
    for identifier in sorted(set(identifiers) - set(refused)):
        key = resolve(identifier).key
        assert key is not None
        code, script = key.split("_")
        locale = Language.get(identifier.replace("_", "-"))
        of_code = Language.get(code).language or ""
        assert (
            code == locale.to_alpha3()
            or standardize_tag(code, macro=True)
            == standardize_tag(locale.language or "", macro=True)
            or MACROLANGUAGES.get(of_code) == locale.language
        ), identifier
        likely = locale.maximize().script or ""
        is_only = not locale.script and fineweb2_scripts().get(code) == (script,)
        assert is_only or script == CONTAINED.get(likely, likely), identifier


@pytest.mark.parametrize(
    ("names", "key"),
    [
        ("en eng EN en-US en_US eng_latn eng-Latn English english en-us EN_us", "eng_Latn"),
        ("pt pt_BR pt-BR pt-br por Portuguese português", "por_Latn"),
        (
            "zh zho chi cmn zh-Hans zh_Hant cmn_Hans cmn-Hant zho_Hans zh-CN zh_TW Chinese",
            "cmn_Hani",
        ),
        ("ar ara arb ar-EG ara-Arab Arabic", "arb_Arab"),
        ("no nor nb nob no-NO Norwegian norwegian_bokmål", "nob_Latn"),
        ("nn nno", "nno_Latn"),
        ("iw he heb Hebrew", "heb_Hebr"),
        ("in id ind", "ind_Latn"),
        ("ger de deu Deutsch German", "deu_Latn"),
        ("fre fra fr français", "fra_Latn"),
        ("sh sr-Latn", "srp_Latn"),
        ("mo ro rum", "ron_Latn"),
        ("sw swa swh swa-Latn swa_latn", "swh_Latn"),
        ("ko kor ko-Kore kor_Kore", "kor_Hang"),
        ("ja jpn ja-JP", "jpn_Jpan"),
        ("fa fas per Persian", "fas_Arab"),
        ("hi hin", "hin_Deva"),
        ("hi-Latn", "hin_Latn"),
        ("ps pus", "pbt_Arab"),
        ("ca-valencia ca", "cat_Latn"),
        ("aaa_Latn", "aaa_Latn"),  # not of FineWeb2
        ("pes_Arab", "pes_Arab"),
        ("swa_Latn", "swa_Latn"),
        ("tgl_Latn", "tgl_Latn"),
        ("rom_Latn", "rom_Latn"),
        ("tok_Latn tok-latn", "tok_Latn"),
        ("kor_Latn ko-Latn", "kor_Latn"),
    ],
)
def test_what_people_write(names: str, key: str) -> None:
    assert {name: resolve(name).key for name in names.split()} == dict.fromkeys(names.split(), key)


@pytest.mark.parametrize(
    ("name", "candidates"),
    [
        ("sr", ["srp_Cyrl", "srp_Latn"]),
        ("srp", ["srp_Cyrl", "srp_Latn"]),
        ("az", ["azj_Latn", "azj_Cyrl"]),
        ("uz", ["uzn_Latn", "uzn_Cyrl"]),
        ("sr-ME", ["srp_Latn", "srp_Cyrl"]),
        ("kk_CN", ["kaz_Arab", "kaz_Cyrl"]),
        ("pa-PK", ["pan_Arab", "pan_Guru", "pan_Latn"]),
        ("ak", ["fat_Latn", "twi_Latn"]),
        ("aa", ["aar_Latn"]),
        ("fra_Latn_removed", ["fra_Latn"]),
    ],
)
def test_what_is_unclear_is_refused_with_its_keys(name: str, candidates: list[str]) -> None:
    found = resolve(name)
    assert (found.key, list(found.candidates)) == (None, candidates)
    assert found.problem


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("xx", "xho_Latn"),
        ("swa_Ltan", "swh_Latn"),
        ("Englsh", "eng_Latn"),
        ("portugese", "por_Latn"),
    ],
)
def test_what_is_misspelt_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    assert resolve(name).key is None
    assert nearest_keys(name)[0] == nearest


@example("\udcff\udcfe de")
@example("\x00\U00010000")
@given(st.text(max_size=12) | st.from_regex(r"[a-zA-Z]{2,3}[-_][a-zA-Z]{2,8}", fullmatch=True))
def test_any_text_is_a_language_or_not(text: str) -> None:
    found = resolve(text)
    assert (found.key is None) == bool(found.problem)
    assert found.key is None or re.fullmatch("[a-z]{3}_[A-Z][a-z]{3}", found.key)
    if found.key is not None:  # what it is taken for is taken for itself
        assert resolve(found.key).key == found.key
