"""Generated text, settings and runs for the tests of preprocessing."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from mmbert_prep.executor.workers import SingleProcess
from mmbert_prep.pipeline import preprocess
from mmbert_prep.settings import PrepSettings
from mmbert_prep.shards.summary import Summary
from tests.support.environment import ROOT, with_packages

_ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "абвгдежзиклмнопрст",
    "अआइईउऊकखगघचछजट",
    "一二三四五六七八九十天地人",
]


def documents(language: str, count: int, words: int = 30) -> list[str]:
    """Return distinct documents of random words; deterministic."""
    generator = random.Random(language)
    alphabet = _ALPHABETS[sum(language.encode()) % len(_ALPHABETS)]
    vocabulary = [
        "".join(generator.choices(alphabet, k=generator.randint(2, 8))) for _ in range(150)
    ]
    texts = []
    for number in range(count):
        chosen = generator.choices(vocabulary, k=generator.randint(4, words))
        if number % 5 == 0:
            chosen[2] += "\n"
        texts.append(" ".join(chosen) + f" {number}")
    return texts


def rows(language: str, texts: Iterable[str]) -> list[dict[str, str]]:
    """Return rows with the language in two columns, as in FineWeb2."""
    code, script = language.split("_")
    return [{"text": text, "language": code, "language_script": script} for text in texts]


def json_lines(items: Iterable[Any]) -> bytes:
    """Encode rows as JSON lines."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()


def write_corpus(folder: Path, scale: int = 1) -> dict[str, int]:
    """Write six languages in several formats; return language -> number of documents."""
    counts = {
        "eng_Latn": 120 * scale,
        "rus_Cyrl": 90 * scale,
        "hin_Deva": 60 * scale,
        "cmn_Hani": 40 * scale,
        "swh_Latn": 30 * scale,
        "yor_Latn": 20 * scale,
    }
    texts = {language: documents(language, count) for language, count in counts.items()}
    english = folder / "web" / "eng_Latn"
    english.mkdir(parents=True)
    table = pa.Table.from_pylist(rows("eng_Latn", texts["eng_Latn"][: 60 * scale]))
    pq.write_table(table, english / "000.parquet", row_group_size=25)
    (folder / "more").mkdir()
    rest = texts["eng_Latn"][60 * scale :]
    (folder / "more" / "eng_Latn.jsonl").write_bytes(json_lines(rows("eng_Latn", rest[:30])))
    (folder / "more" / "eng_Latn.txt").write_text("\n\n".join(rest[30:]) + "\n\n", "utf-8")
    data = json_lines(rows("rus_Cyrl", texts["rus_Cyrl"]))
    (folder / "more" / "rus_Cyrl.jsonl.zst").write_bytes(zstandard.compress(data))
    data = json_lines(rows("hin_Deva", texts["hin_Deva"]))
    (folder / "more" / "hin_Deva.jsonl.gz").write_bytes(gzip.compress(data))
    mixed = rows("cmn_Hani", texts["cmn_Hani"]) + rows("swh_Latn", texts["swh_Latn"])
    random.Random(3).shuffle(mixed)
    (folder / "columns.jsonl").write_bytes(json_lines(mixed))
    (folder / "yor_Latn.txt").write_text("\n\n".join(texts["yor_Latn"]), "utf-8")
    (folder / "README.md").write_text("not text to train on")
    return counts


def settings(path: Path | str, output: Path, **changes: Any) -> PrepSettings:
    """Make settings for a small corpus."""
    values: dict[str, Any] = {
        "input": str(path),
        "output": output,
        "vocabulary_size": 1000,
        "heldout_share": 0.1,
        "unit_bytes": 3000,
        "contexts": (16, 64),
        **changes,
    }
    return PrepSettings(**values)


def run(path: Path | str, output: Path, **changes: Any) -> Summary:
    """Run the pipeline in this process."""
    summary = preprocess(SingleProcess(), settings(path, output, **changes))
    assert summary is not None
    return summary


def tree(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every visible file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".preprocess" not in path.parts
    }


def command_line(*arguments: object, launcher: Iterable[str] = ()) -> subprocess.CompletedProcess:
    """Run launch/preprocess.py as a user does."""
    return subprocess.run(
        [*launcher, sys.executable, *command(*arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        cwd=ROOT,
    )


def command(*arguments: object) -> list[str]:
    """Return the script and options of a small run."""
    options = ["--vocab-size", "1000", "--heldout-fraction", "0.1", "--unit-bytes", "3000"]
    options += ["--context", "16", "--context", "64"]
    return ["launch/preprocess.py", *options, *(str(argument) for argument in arguments)]


def environment() -> dict[str, str]:
    """Return an environment with the packages on the path and without a launcher."""
    return {
        name: value
        for name, value in with_packages().items()
        if not name.startswith(("SLURM", "OMPI", "PMI"))
    }
