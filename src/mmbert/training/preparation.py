"""Moved to mmbert.training.run_config; this name goes with the next version."""

import sys
import warnings

from mmbert.training import run_config

warnings.warn(
    "mmbert.training.preparation is now mmbert.training.run_config", FutureWarning, stacklevel=2
)
sys.modules[__name__] = run_config
