"""Deprecated alias of mmbert_prep.cli, to be removed in 0.3.0."""

import sys
import warnings

from mmbert_prep import cli

warnings.warn("mmbert_prep.main is now mmbert_prep.cli", FutureWarning, stacklevel=2)
sys.modules[__name__] = cli
