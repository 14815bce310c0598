"""Deprecated alias of mmbert_prep.cli, to be removed in the next version."""

import sys
import warnings

from mmbert_prep import cli

warnings.warn("mmbert_prep.main is now mmbert_prep.cli", FutureWarning, stacklevel=2)
sys.modules[__name__] = cli
