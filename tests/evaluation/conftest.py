"""A trained run with its export, and shards made with its tokenizer."""

from pathlib import Path

import pytest

from mmbert.hub.export import export_checkpoint
from tests.data.shards import write_corpus
from tests.hub.runs import Run, make_run
from tests.hub.tokenizers_for_tests import metaspace_tokenizer, save_tokenizer


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run") / "tiny")


@pytest.fixture(scope="session")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "tiny"
    export_checkpoint(run.checkpoint, out)
    return out


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards") / "shards"
    tokenizer = metaspace_tokenizer()
    write_corpus(
        folder,
        {"text": {"eng_Latn": [40] * 30, "deu_Latn": [60] * 30, "swh_Latn": [25] * 10}},
        contexts=(64, 256),
        heldout=(30, 300, 20, 90),
        vocabulary_size=tokenizer.get_vocab_size(),
    )
    save_tokenizer(folder / "tokenizer", tokenizer)
    return folder
