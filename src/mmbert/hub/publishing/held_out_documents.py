"""Held-out documents of a run's shards, spread over its languages, for checks of vectors."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mmbert.data.sampling.permutation import key_of, permute
from mmbert.data.shards.component import Component
from mmbert.data.shards.corpus import Corpus, open_corpus
from mmbert.errors import TokenizerError
from mmbert.training.run_folder import same_tokenizer

LONGEST = 256
"""Tokens of a document, with begin and end; the rest of a longer one is not read."""


def held_out_documents(shards: Path, tokenizer: Path, count: int) -> list[np.ndarray]:
    """Return the ids of at most `count` held-out documents in `shards`, each int [1, 510].

    The languages take turns, in an order that depends on their names alone, and so do the documents
    of a language: the same shards give the same documents to every model. Fewer if there are fewer.

    Args:
        tokenizer: folder of the run's tokenizer, whose ids they must be.

    Raises:
        UserError: no shards, or shards of another tokenizer.
    """
    corpus = open_corpus(shards)
    if not same_tokenizer(tokenizer, corpus):
        raise TokenizerError(
            f"{shards} and {tokenizer} are of different tokenizers",
            remedy="give --data the shards that the run was trained on",
        )
    components = [one for one in corpus.components if one.manifest.heldout.documents]
    components.sort(key=lambda one: key_of("published", one.name))
    streams = [_documents(corpus, component) for component in components]
    turns = itertools.zip_longest(*streams)
    found = (ids for turn in turns for ids in turn if ids is not None and len(ids))
    return list(itertools.islice(found, count))


def _documents(corpus: Corpus, component: Component) -> Iterator[np.ndarray]:
    total = component.manifest.heldout.documents
    key = key_of("published", component.name)
    for place in range(total):
        number = int(permute([place], total, key)[0])
        yield np.array(corpus.document(component, "heldout", number)[: LONGEST - 2])
