"""Deprecated alias of mmbert_prep.demo.corpus, to be removed in 0.3.0."""

import sys
import warnings

import typer

from mmbert_prep.demo import corpus

warnings.warn("mmbert_prep.demo_corpus is now mmbert_prep.demo.corpus", FutureWarning, stacklevel=2)
if __name__ == "__main__":
    typer.run(corpus.main)
sys.modules[__name__] = corpus
