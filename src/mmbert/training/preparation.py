"""Deprecated alias of mmbert.training.run_config, to be removed in 0.3.0."""

import sys
import warnings

from mmbert.training import run_config

warnings.warn(
    "mmbert.training.preparation is now mmbert.training.run_config", FutureWarning, stacklevel=2
)
vars(run_config).update(prepare=run_config.resolve_run_config, Prepared=run_config.RunConfig)
sys.modules[__name__] = run_config
