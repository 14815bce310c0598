"""A trained run, its export, and shards with its tokenizer."""

from pathlib import Path

import pytest

from tests.support.corpora import write_corpus
from tests.support.exported_run import exported, run
from tests.support.tokenizers import metaspace_tokenizer, save_tokenizer

__all__ = ["exported", "run"]


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
