"""The small run's recipe, and shards of its languages with a loadable tokenizer."""

import random
from pathlib import Path

import pytest

from tests.support.corpora import write_corpus
from tests.support.small_run import RECIPE, SIZES
from tests.support.tokenizers import metaspace_tokenizer, save_tokenizer


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with recipe.yaml and shards/: 22 steps, three phases with 2, 2 and 1 languages."""
    folder = tmp_path_factory.mktemp("ablation")
    generator = random.Random(0)
    languages = {
        name: [generator.randint(5, longest) for _ in range(documents)]
        for name, (documents, longest) in SIZES.items()
    }
    tokenizer = metaspace_tokenizer()
    write_corpus(
        folder / "shards",
        {"text": languages},
        contexts=(64, 128),
        heldout=(30, 40, 20),
        vocabulary_size=tokenizer.get_vocab_size(),
    )
    save_tokenizer(folder / "shards" / "tokenizer", tokenizer)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder
