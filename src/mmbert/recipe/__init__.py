"""The recipe: one YAML file with all settings of a training run, validated by typed models."""

from mmbert.recipe.data_sections import DataSettings, MaskingSettings, Source, SpanSettings
from mmbert.recipe.loading import dump_recipe, load_recipe, override_recipe, parse_recipe
from mmbert.recipe.named import describe_recipe
from mmbert.recipe.optimizers import (
    GroupLearningRates,
    MuonSettings,
    OptimizerSettings,
    ParameterGroup,
)
from mmbert.recipe.phases import (
    LanguageSelection,
    LearningRate,
    MaskRatioRange,
    MergeSettings,
    Objective,
    Phase,
    RotaryBases,
    Temperature,
    Variant,
    mean_mask_ratio,
)
from mmbert.recipe.quantities import format_quantity, parse_quantity
from mmbert.recipe.recipe import Recipe
from mmbert.recipe.sections import (
    BatchSettings,
    CheckpointSettings,
    EvaluationSettings,
    Growth,
    GuardSettings,
    LoggingSettings,
    ModelSettings,
    ParallelSettings,
    TokenizerSettings,
)

__all__ = [
    "BatchSettings",
    "CheckpointSettings",
    "DataSettings",
    "EvaluationSettings",
    "GroupLearningRates",
    "Growth",
    "GuardSettings",
    "LanguageSelection",
    "LearningRate",
    "LoggingSettings",
    "MaskRatioRange",
    "MaskingSettings",
    "MergeSettings",
    "ModelSettings",
    "MuonSettings",
    "Objective",
    "OptimizerSettings",
    "ParallelSettings",
    "ParameterGroup",
    "Phase",
    "Recipe",
    "RotaryBases",
    "Source",
    "SpanSettings",
    "Temperature",
    "TokenizerSettings",
    "Variant",
    "describe_recipe",
    "dump_recipe",
    "format_quantity",
    "load_recipe",
    "mean_mask_ratio",
    "override_recipe",
    "parse_quantity",
    "parse_recipe",
]
