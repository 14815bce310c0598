"""Language keys `iso639-3_Script`, and conversion of ISO 639-1 codes to ISO 639-3.

A macrolanguage of ISO 639-1 maps to the individual language that FineWeb2 uses for it (`ar` to
`arb`, `zh` to `cmn`), so that the keys of local and downloaded corpora agree.
"""

from __future__ import annotations

import re
from functools import cache

from mmbert.recipe.named import packaged_languages

LANGUAGE_KEY = re.compile(r"[a-z]{3}_[A-Z][a-z]{3}")

_TABLE = """
    aa:aar ab:abk af:afr ak:aka am:amh an:arg ar:arb as:asm az:azj ba:bak be:bel bg:bul bm:bam
    bn:ben bo:bod br:bre bs:bos ca:cat ce:che co:cos cs:ces cu:chu cv:chv cy:cym da:dan de:deu
    dv:div dz:dzo ee:ewe el:ell en:eng eo:epo es:spa et:ekk eu:eus fa:pes ff:ful fi:fin fo:fao
    fr:fra fy:fry ga:gle gd:gla gl:glg gn:gug gu:guj gv:glv ha:hau he:heb hi:hin hr:hrv ht:hat
    hu:hun hy:hye ia:ina id:ind ie:ile ig:ibo ii:iii io:ido is:isl it:ita iu:ike ja:jpn jv:jav
    ka:kat ki:kik kk:kaz kl:kal km:khm kn:kan ko:kor ks:kas ku:kmr kw:cor ky:kir la:lat lb:ltz
    lg:lug ln:lin lo:lao lt:lit lu:lub lv:lvs mg:plt mi:mri mk:mkd ml:mal mn:khk mr:mar ms:zsm
    mt:mlt my:mya nb:nob nd:nde ne:npi nl:nld nn:nno no:nob nr:nbl nv:nav ny:nya oc:oci om:gaz
    or:ory os:oss pa:pan pl:pol ps:pbt pt:por qu:quz rm:roh rn:run ro:ron ru:rus rw:kin sa:san
    sc:srd sd:snd se:sme sg:sag si:sin sk:slk sl:slv sn:sna so:som sq:als sr:srp ss:ssw st:sot
    su:sun sv:swe sw:swh ta:tam te:tel tg:tgk th:tha ti:tir tk:tuk tn:tsn to:ton tr:tur ts:tso
    tt:tat ug:uig uk:ukr ur:urd uz:uzn ve:ven vi:vie vo:vol wa:wln wo:wol xh:xho yi:ydd yo:yor
    za:zha zh:cmn zu:zul
"""
_ISO_639_3 = dict(pair.split(":") for pair in _TABLE.split())


def iso639_3(code: str) -> str:
    """Convert a two-letter code (KeyError if unknown); return a three-letter code unchanged."""
    return code if len(code) == 3 else _ISO_639_3[code]


def is_language_key(text: str) -> bool:
    """Return whether `text` has the form `iso639-3_Script`, such as `swh_Latn`."""
    return LANGUAGE_KEY.fullmatch(text) is not None


def is_known_code(code: str) -> bool:
    """Return whether a three-letter code is in the table or in a packaged language list."""
    return code in _known_codes()


@cache
def _known_codes() -> frozenset[str]:
    return frozenset(_ISO_639_3.values()) | packaged_languages()
