"""Exported folders give the same logits in older transformers, batched with padding."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.environments.version_sets import packages_of
from tests.support.environment import with_packages
from tests.support.written_runs import TOLERANCE, Run, documents, our_logits

PROGRAM = """
import json, sys, torch, transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline
folder, texts = sys.argv[1], json.loads(sys.argv[2])
longest = max(map(len, texts))
found = {}
for attention in ("sdpa", "eager"):
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation=attention).eval()
    batch = torch.tensor([ids + [0] * (longest - len(ids)) for ids in texts])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in texts])
    with torch.no_grad():
        logits = model(input_ids=batch, attention_mask=mask).logits
    found[attention] = [row[: len(ids)].tolist() for row, ids in zip(logits, texts)]
tokenizer = AutoTokenizer.from_pretrained(folder)
fillings = pipeline("fill-mask", model=folder)("the river runs past the old <mask>")
encoded = tokenizer("the old town")
print("RESULT", json.dumps({
    "version": transformers.__version__, "logits": found, "ids": encoded["input_ids"],
    "inputs": sorted(encoded), "fillings": len(fillings),
}))
"""


@pytest.mark.long
@pytest.mark.parametrize("release", ["4.48", "4.57", "5.0"])
def test_same_logits(run: Run, exported: Path, release: str) -> None:
    texts = documents(run)
    finished = subprocess.run(
        [
            sys.executable,
            "-c",
            PROGRAM,
            str(exported),
            json.dumps([text.tolist() for text in texts]),
        ],
        env=with_packages(packages_of(release)),
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    found = json.loads(finished.stdout.split("RESULT")[1])
    assert found["version"].startswith(f"{release}.")
    assert found["inputs"] == ["attention_mask", "input_ids"]
    assert (found["ids"][0], found["ids"][-1], found["fillings"]) == (2, 1, 5)
    expected = our_logits(run, texts)
    largest = max(float(logits.abs().max()) for logits in expected)
    worst = max(
        float((torch.tensor(theirs) - ours).abs().max())
        for by_text in found["logits"].values()
        for theirs, ours in zip(by_text, expected, strict=True)
    )
    print(f"transformers {release}: logits differ by {worst / largest:.1e} of the largest")
    assert worst <= TOLERANCE * largest
