"""Deprecated alias of mmbert.training.launcher_env, to be removed in 0.3.0."""

import sys
import warnings

from mmbert.training import launcher_env

warnings.warn(
    "mmbert.training.launchers is now mmbert.training.launcher_env", FutureWarning, stacklevel=2
)
vars(launcher_env).update(
    Placement=launcher_env.RankInfo,
    discover_placement=launcher_env.rank_info_from_env,
    device_number=launcher_env.device_index,
)
sys.modules[__name__] = launcher_env
