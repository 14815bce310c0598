"""Whole decays of tiny models, with real preprocessing and training, killed and continued."""

import json
import os
import random
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from mmbert.merging.merge import MergeOptions, merge_models
from tests.support.composer import EARLIER
from tests.support.decays import HELD_OUT, LAUNCH, SMALL, decay, with_pickled_weights, write_text
from tests.support.external_model import external_model
from tests.support.job_processes import wait_for
from tests.support.mds_shards import array, write_mds
from tests.support.tiny_run import ENVIRONMENT
from tests.support.tokenizers import SENTENCES

pytestmark = pytest.mark.long
NEW = {"swh_Latn": 120, "hau_Latn": 80, "yor_Latn": 60}
OLD = {"eng_Latn": 100, "deu_Latn": 60}


def write_mds_of_tokens(folder: Path) -> Path:
    """Write the old languages as mmBERT's MDS repositories have them, with ids of the fixture."""
    generator = random.Random(2)
    for language, documents in OLD.items():
        own = generator.sample(range(5, 123), 12)
        samples = []
        for _ in range(documents):
            ids = [2, *generator.choices(own, k=generator.randint(10, 50)), 1]
            samples.append({"input_ids": array(np.array(ids, dtype="<u4"), True)})
        place = folder / "train" / "fineweb2" / f"{language}_train-sampled" / "batch_0000"
        place.mkdir(parents=True)
        write_mds(place / "shard.00000.mds", samples, {"input_ids": "ndarray:uint32"})
    (folder / "train" / "index.json").write_text('{"version": 2, "shards": []}')
    return folder


def options(folder: Path, words: list[str], old: Path) -> tuple[str | Path, ...]:
    """Write new text; return the options that name new and old."""
    new = write_text(folder / "new", NEW, words, seed=1)
    return (
        *("--input", new, "--old", old, "--output", folder / "out", "--workers", "1"),
        *("--preprocess", HELD_OUT, "--preprocess-old", HELD_OUT),
    )


def result(out: Path) -> dict[str, dict[str, float]]:
    """Return the losses by language; those of decay.tsv and decay.json are the same."""
    found = json.loads((out / "decay.json").read_text())["result"]
    lines = (out / "decay.tsv").read_text().splitlines()
    assert lines[0].split("\t")[4:-1] == list(found["models"])
    assert len(lines) == len(found["languages"]) + 1
    return {row["language"]: row["losses"] for row in found["languages"]}


def files(*folders: Path) -> dict[Path, int]:
    """Return the times of all files, which tell whether they were written again."""
    paths = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in paths}


def test_a_model_with_pickled_weights_learns_new_languages(tmp_path: Path) -> None:
    model = with_pickled_weights(external_model(tmp_path / "model"))
    words = sorted(set(" ".join(SENTENCES).split()))
    old = write_text(tmp_path / "old", OLD, words, seed=2)
    given = (
        *(model, *options(tmp_path, words, old), "--tokens", "20k"),
        *("--languages", "swh,hau_Latn", "optimizer.learning_rate=1e-3"),
    )
    out = tmp_path / "out"
    planned = decay(*given, "--until", "plan")
    assert planned.status == 0, planned.said
    assert "2 new languages: hau_Latn, swh_Latn" in planned.said
    assert "Total: " in planned.said  # the cost, before the training
    assert not (out / "run").exists()
    call = decay(*given)
    assert call.status == 0, call.said
    assert "with new moments and a warm-up" in call.said
    assert "nothing is merged" in call.said
    losses = result(out)
    assert sorted(losses) == ["deu_Latn", "eng_Latn", "hau_Latn", "swh_Latn"]
    for language in ("swh_Latn", "hau_Latn"):
        assert losses[language]["result"] < losses[language]["start"] - 0.3, losses
        assert f"{losses[language]['result']:.3f}" in call.said
    tokens = json.loads((out / "decay.json").read_text())["result"]["languages"]
    trained = {row["language"]: row["trained_tokens"] for row in tokens}
    assert trained["swh_Latn"] > trained["eng_Latn"] > 0
    expected = {
        "decay.json", "decay.tsv", "imported", "model", "recipe.yaml", "run", "run.log", "shards",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == expected
    made = files(out)
    again = decay(*given)
    assert again.status == 0
    assert again.said.count(": done") == 7
    assert files(out) == made


def test_a_state_is_continued_through_kills_and_merged_onto_the_model(
    released: Path, tmp_path: Path
) -> None:
    words = [f"w{number}" for number in range(5, 123)]
    old = write_mds_of_tokens(tmp_path / "old")
    given = (
        *(released, *options(tmp_path, words, old), "--tokens", "4k"),
        *("--state", EARLIER, "--onto", released),
    )
    out = tmp_path / "out"
    process = subprocess.Popen(
        ["mmbert", "decay", *given, "--launch", LAUNCH, *SMALL],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for((out / "shards" / "new" / "summary.json").exists, 100)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "model").exists()
    made = files(out / "imported", out / "shards" / "new")
    (out / "run").mkdir(exist_ok=True)
    (out / "run" / "STOP").touch()
    stopped = decay(*given)
    assert stopped.status == 75, stopped.said
    assert "the training was stopped after saving" in stopped.said
    assert "[1/7] import: done" in stopped.said
    call = decay(*given)
    assert call.status == 0, call.said
    assert files(out / "imported", out / "shards" / "new") == made
    assert "optimizer step 10" in (out / "run.log").read_text()
    losses = result(out)
    assert sorted(losses) == sorted([*NEW, *OLD])
    assert list(losses["swh_Latn"]) == ["start", "onto", "trained", "result"]
    assert losses["swh_Latn"]["result"] < losses["swh_Latn"]["onto"]
    (trained,) = sorted((out / "run" / "checkpoints").glob("step-*"))[-1:]
    merge_models(
        [trained, released], tmp_path / "merged", MergeOptions("ties"), base=out / "imported"
    )
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    own = load_file(out / "model" / "model.safetensors")
    assert all(bool((own[name] == expected[name]).all()) for name in expected)
