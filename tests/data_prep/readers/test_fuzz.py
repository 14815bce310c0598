"""Mutated files of every format: errors name the file, and nothing crashes."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from mmbert_prep.filters.cleaning import Cleaner
from mmbert_prep.readers import Rejected, RejectReason, plan_ranges, read_range
from mmbert_prep.readers.discovery import discover
from tests.support.sample_files import SAMPLE_FILES, TOKEN_IDS
from tests.support.texts import documents, settings

TEXTS = documents("eng_Latn", 60)
NAMES = [f"eng_Latn{suffix}" for suffix in SAMPLE_FILES]


def mutate(data: bytes, generator: random.Random) -> bytes:
    """Apply random mutations: flip bits; remove, repeat, fill or overwrite bytes; truncate."""
    changed = bytearray(data)
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(max(1, len(changed)))
        stop = min(len(changed), start + generator.choice((1, 2, 4, 8, 50, 400)))
        way = generator.randrange(7)
        if way <= 1 and changed:
            changed[start % len(changed)] ^= 1 << generator.randrange(8)
        elif way == 2:
            del changed[start:stop]
        elif way == 3:
            changed[start:start] = changed[start:stop]
        elif way == 4:
            filler = generator.choice((0, 0xFF, generator.randrange(256)))
            changed[start:stop] = bytes([filler]) * (stop - start)
        elif way == 5:
            del changed[start:]
        else:
            changed[start:stop] = generator.randbytes(stop - start)
    return bytes(changed)


def check(name: str, seed: int, folder: Path) -> None:
    """Read one mutated file; every document has a text, tokens or a reason for rejection."""
    generator = random.Random(f"{name} {seed}")
    path = folder / name
    sound = folder.with_name(f"{folder.name}-sound") / name
    if not sound.exists():
        sound.parent.mkdir()
        SAMPLE_FILES[name.removeprefix("eng_Latn")](sound, TEXTS)
    for one in sound.parent.iterdir():
        shutil.copyfile(one, folder / one.name)
    victim = path
    if name.endswith(".idx") and generator.random() < 0.3:
        victim = path.with_suffix(".bin")
    victim.write_bytes(mutate(victim.read_bytes(), generator) or b"x")
    options = settings(folder, folder / "out", maximum_bytes=100_000)
    cleaner = Cleaner(options)
    for file in discover(options).files:
        for file_range in plan_ranges(file, generator.choice((500, 1 << 30)), options):
            for document in read_range(file_range, options):
                if document.rejected is not None:
                    assert document.rejected.reason.damage
                    if document.rejected.reason is RejectReason.DAMAGED_FILE:
                        assert document.rejected.detail is not None
                        assert name in document.rejected.detail
                elif document.tokens is not None:
                    assert document.tokens.dtype == np.int32
                    assert document.tokens.size == 0 or int(document.tokens.min()) >= 0
                    if victim.suffix == ".idx":  # whole documents, possibly joined
                        assert document.tokens.tolist() == TOKEN_IDS * (len(document.tokens) // 40)
                else:
                    result = cleaner.clean(document)
                    assert isinstance(result, Rejected) or result.text.encode() == result.data


@pytest.mark.parametrize("name", NAMES)
def test_mutated_files(name: str, tmp_path: Path) -> None:
    for seed in range(40):
        check(name, seed, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_many_mutated_files(name: str, tmp_path: Path) -> None:
    for seed in range(1000, 11_000):
        check(name, seed, tmp_path)
