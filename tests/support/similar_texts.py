"""Made texts of a known similarity: pairs with an exact Jaccard index of their shingles."""

from __future__ import annotations

import random

from mmbert_prep.filters.signatures import shingles

ALPHABETS = {
    "eng_Latn": "abcdefghijklmnopqrstuvwxyz",
    "rus_Cyrl": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "arb_Arab": "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "hin_Deva": "अआइईउऊएओकखगघचछजझटठडढतथदधनपफबभमयरलवसह",
    "tha_Thai": "กขคงจชซญดตถทธนบปผพฟมยรลวสหอฮ",
    "amh_Ethi": "ሀለሐመሠረሰሸቀበተቸነኘአከወዘየደገጠፀፈፐ",
    "cmn_Hani": "".join(chr(point) for point in range(0x4E00, 0x4E00 + 80)),
}
_WITHOUT_BLANKS = ("cmn_Hani", "tha_Thai")


def jaccard(first: str, second: str) -> float:
    """Return the exact similarity that signatures estimate."""
    one, other = set(shingles(first)), set(shingles(second))
    return len(one & other) / len(one | other)


class TextMaker:
    """Makes texts of random words of one language; deterministic."""

    def __init__(self, language: str, seed: int = 0) -> None:
        self._generator = random.Random(f"{language} {seed}")
        alphabet = ALPHABETS[language]
        self._blank = "" if language in _WITHOUT_BLANKS else " "
        self._words = [
            "".join(self._generator.choices(alphabet, k=self._generator.randint(1, 9)))
            for _ in range(4000)
        ]

    def text(self, words: int) -> str:
        """Return a new text."""
        return self._blank.join(self._choose(words))

    def pair(self, words: int, similarity: float, scattered: bool) -> tuple[str, str]:
        """Return a text and one with other words, in one place or many, within 0.015 of it."""
        first = self._choose(words)
        places = list(range(words))
        if scattered:
            self._generator.shuffle(places)
        other = self._choose(words)
        low, high = 0, words  # replaced words; the similarity falls as they grow
        while True:
            count = (low + high) // 2
            replaced = set(places[:count])
            second = [other[i] if i in replaced else first[i] for i in range(words)]
            texts = self._blank.join(first), self._blank.join(second)
            found = jaccard(*texts)
            if abs(found - similarity) <= 0.015:
                return texts
            if high - low <= 1:
                return self.pair(words, similarity, scattered)
            low, high = (count, high) if found > similarity else (low, count)

    def _choose(self, words: int) -> list[str]:
        return self._generator.choices(self._words, k=words)
