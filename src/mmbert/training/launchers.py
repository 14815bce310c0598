"""Moved to mmbert.training.launcher_env; this name goes with the next version."""

import sys
import warnings

from mmbert.training import launcher_env

warnings.warn(
    "mmbert.training.launchers is now mmbert.training.launcher_env", FutureWarning, stacklevel=2
)
sys.modules[__name__] = launcher_env
