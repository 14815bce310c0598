"""Model, state and the model to merge onto must be of one architecture and tokenizer."""

import json
import shutil
from pathlib import Path

import pytest

from mmbert.checkpoint.imported_state import read_imported_state
from tests.support.composer import EARLIER
from tests.support.decays import Call, decay, write_text
from tests.support.external_model import external_model


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(
        tmp_path_factory.mktemp("new"), {"swh_Latn": 3}, [f"w{number}" for number in range(20)]
    )


def started(text: Path, out: Path, *words: str | Path) -> Call:
    """Run the first stage."""
    more = ("--input", text, "--without-old", "--output", out, "--tokens", "5k")
    return decay(*words, *more, "--until", "import")


def changed_config(model: Path, copy: Path, **changes: object) -> Path:
    """Copy a model with other values in its config.json."""
    shutil.copytree(model, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


def test_the_state_is_imported_at_the_start_of_the_phase(
    text: Path, released: Path, tmp_path: Path
) -> None:
    call = started(text, tmp_path / "out", released, "--state", EARLIER, "--onto", released)
    assert call.status == 0, call.said
    state = read_imported_state(tmp_path / "out" / "imported")
    assert state is not None
    assert (state.phase, state.tokens, state.optimizer.steps) == ("decay", 0, 10)
    config = json.loads((tmp_path / "out" / "imported" / "config.json").read_text())
    assert config["max_position_embeddings"] == 64  # the model's
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["decay.json", "imported"]


def test_a_state_of_another_model_is_refused(text: Path, released: Path, tmp_path: Path) -> None:
    other = external_model(tmp_path / "other")
    out = tmp_path / "out"
    refused = started(text, out, other, "--state", EARLIER)
    assert refused.status == 2
    assert f"{EARLIER} is not a state of {other}: its hidden_size is 32, not 64" in refused.said
    assert not (out / "imported").exists()
    window = changed_config(released, tmp_path / "window", local_attention=32)
    refused = started(text, tmp_path / "out 2", window, "--state", EARLIER)
    assert "its local_window is 16, not 32" in refused.said


def test_a_state_of_another_tokenizer_is_refused(
    text: Path, released: Path, tmp_path: Path
) -> None:
    other = changed_config(released, tmp_path / "other")
    tokenizer = (other / "tokenizer.json").read_text()
    assert '"w7"' in tokenizer
    (other / "tokenizer.json").write_text(tokenizer.replace('"w7"', '"v7"'))
    refused = started(text, tmp_path / "out", other, "--state", EARLIER)
    assert refused.status == 2
    assert "their tokenizers differ" in refused.said


def test_a_model_to_merge_onto_must_fit(text: Path, released: Path, tmp_path: Path) -> None:
    other = external_model(tmp_path / "other")
    given = (released, "--state", EARLIER, "--onto")
    refused = started(text, tmp_path / "out", *given, other)
    assert refused.status == 2
    assert f"{other} and {released} have different sizes" in refused.said
    assert not (tmp_path / "out" / "imported").exists()
    bases = changed_config(released, tmp_path / "bases", global_rope_theta=10_000.0)
    refused = started(text, tmp_path / "out 2", *given, bases)
    assert f"{bases} and {released} have different rotary bases" in refused.said


def test_a_causal_model_is_not_merged_with(text: Path, released: Path, tmp_path: Path) -> None:
    """Known before the training, as start of a linear merge too; as a start alone it may be."""
    causal = changed_config(released, tmp_path / "causal", mmbert_objective="causal")
    for number, given in enumerate(
        [(released, "--state", EARLIER, "--onto", causal), (causal, "--merge", "linear:0.5")]
    ):
        refused = started(text, tmp_path / f"out {number}", *given)
        assert refused.status == 2
        assert f"{causal} ended its training in a causal phase" in refused.said
        assert not (tmp_path / f"out {number}" / "imported").exists()
    assert started(text, tmp_path / "alone", causal).status == 0
