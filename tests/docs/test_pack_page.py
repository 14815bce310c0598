"""The programs of docs/pack.md train a small model; its table has the reasons in the code."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks
from tests.support.environment import ROOT, with_packages
from tests.support.exported_run import exported, run
from tests.support.tokenizers import SENTENCES
from tests.support.trainer_packages import trainer_packages

__all__ = ["exported", "run"]

PAGE = ROOT / "docs" / "pack.md"
EXECUTED = "python, executed by tests/docs/test_pack_page.py"

# Executes the page's programs in order, and counts what each computes packed.
PROGRAM = """
import json, sys
from mmbert.hub.live.twin import Twins
encode, calls = Twins.encode, []
def counting(self, live, tokens, padding, **settings):
    calls.append([len(tokens), padding.batch * padding.width])
    return encode(self, live, tokens, padding, **settings)
Twins.encode = counting
names, found = {}, []
for program in json.loads(sys.argv[1]):
    exec(program, names)
    found.append(calls[:])
    calls.clear()
vectors = names["SentenceTransformer"]("my_embedder").encode(["the old town", "ein kind"])
classifier = names["AutoModelForSequenceClassification"].from_pretrained("my_classifier")
print("RESULT", json.dumps([found, vectors.shape, classifier.config.num_labels, len(calls)]))
"""


def programs() -> list[Block]:
    return [block for block in blocks(PAGE) if block.detail == EXECUTED]


@pytest.mark.long
def test_the_programs_of_the_page_train_packed(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "my_model").symlink_to(exported)
    labels = {"the": 0, "a": 0, "an": 0, "der": 1, "ein": 1}
    rows = [{"text": text, "label": labels.get(text.split()[0], 2)} for text in SENTENCES]
    pairs = [
        {"id": number, "anchor": text, "positive": SENTENCES[(number + 1) % 8][:20]}
        for number, text in enumerate(SENTENCES)
    ]
    for name, lines in (("texts", rows), ("pairs", pairs)):
        text = "".join(f"{json.dumps(line)}\n" for line in lines)
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([block.text for block in programs()])],
        env=with_packages(*trainer_packages(), HF_HOME=str(tmp_path / "hub")),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )
    assert finished.returncode == 0, finished.stdout
    assert "goes the unpacked way" not in finished.stdout
    result = json.loads(finished.stdout.split("RESULT")[1].splitlines()[0])
    (classifier, embedder, checked, counted), shape, num_labels, unpacked = result
    for calls in (classifier, embedder, checked):
        assert calls
        assert all(real < padded for real, padded in calls)
    assert counted == []
    assert unpacked == 0  # saved models are plain
    assert (shape, num_labels) == ([2, 64], 3)


def test_the_programs_have_ten_lines() -> None:
    fine_tuning, embeddings, checked, counted = (block.text for block in programs())
    for program in (fine_tuning, embeddings):
        assert len([line for line in program.splitlines() if line]) == 10
    for program in (fine_tuning, embeddings, checked, counted):
        assert ast.parse(program).body


def reasons() -> set[str]:
    """Return the reasons of all detours in the code, "…" for what a call fills in."""
    found = set()
    for path in (ROOT / "src/mmbert/hub/live").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "DetourError":
                (reason,) = node.args
                parts = reason.values if isinstance(reason, ast.JoinedStr) else [reason]
                text = "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…" for part in parts
                )
                found.add(re.sub("(, )?…$", "…", text.replace("dimensions, …", "dimensions")))
    return found


def test_every_reason_to_go_unpacked_is_in_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    section = text[text.index("## What goes the unpacked way") : text.index("## What is refused")]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    named = {reason for row in rows for reason in re.findall(r"`([^`]+)`", row)}
    assert len(named) > 12
    assert named == reasons()
