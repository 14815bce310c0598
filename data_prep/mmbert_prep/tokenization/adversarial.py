"""Adversarial texts: a fixed set on which two encoders must agree before use."""

from __future__ import annotations

import itertools
import random

_RESERVED = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    "<mask>",
    "<s>",
    "</s>",
    "[MASK]",
    "[CLS]",
    "[SEP]",
)
_PARTS = (
    *_RESERVED,
    " ", "  ", "   ", "\u2581", "\u2581\u2581", "\n", "\n\n", "\n\n\n\n\n\n\n\n\n", "\t",
    "\t\t\t\t\t",
    "\r\n", "\x00", "\x7f", "\u00a0", "\u200b", "\u200d", "\ufeff", "\ufffd", "\u2028", "\u0301",
    "a", "aaaaaaaaaaaaaaaaa", "é", "e\u0301", "ß", "İ", "ﬁ", "①", "½", "٣", "१२३",
    "1234567890", "3.14",
    "<0x41>", "<0xFF>", "<unused0>", "<start_of_turn>", "<h1>", "&lt;mask&gt;",
    "你好", "日本語", "한국어", "ภาษาไทย", "ພາສາ", "မြန်မာ", "አማርኛ", "ᏣᎳᎩ", "ދިވެހި",
    "עברית", "العربية",
    "हिन्दी", "தமிழ்", "🙂", "👩‍👩‍👧‍👦", "🇫🇷", "\U0001d54f", "\U00020000", "\U000e0041", "\U0010ffff",
)  # fmt: skip


def _texts() -> tuple[str, ...]:
    texts = list(_PARTS)
    texts += ["".join(pair) for pair in itertools.product(_PARTS[:28], _PARTS[:28])]
    generator = random.Random(17)
    for _ in range(600):
        texts.append("".join(generator.choices(_PARTS, k=generator.randint(2, 24))))
    for _ in range(200):
        # Random code points, except surrogates.
        codes = (generator.choice((0x80, 0x800, 0x3000, 0x10000, 0x110000)) for _ in range(40))
        points = (generator.randrange(code) for code in codes)
        texts.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000))
    return tuple(texts)


ADVERSARIAL_TEXTS = _texts()
