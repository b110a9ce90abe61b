"""Configuration: frozen dataclasses for everything a sweep and a run need, and the run id.

ConfigDicts live at the edge (files in `configs/`, flags); sweeps/configfile.py turns them into these
dataclasses and refuses unknown keys and wrong types by name. What changes the science is kept
apart from `Runtime`, which says how the hardware is used and never enters a run id.
"""

from rewardscale.config.base import ADDED, SCIENCE_VERSION, ConfigError, content_hash, science, to_mapping
from rewardscale.config.data import (
    DATA_VARIABLE,
    DataConfig,
    LinearConfig,
    ObjectiveConfig,
    PlantedConfig,
    VotesConfig,
    WorldConfig,
)
from rewardscale.config.model import KERNELS, ConvexConfig, Lora, ModelConfig, RopeScaling, VocabularyConfig
from rewardscale.config.runs import Assumed, AssumedSweep, Grid, RunConfig, SweepConfig, TrainConfig
from rewardscale.config.training import ATTENTION, REMAT, Recipe, Runtime, Storage

__all__ = [
    "ADDED",
    "ATTENTION",
    "DATA_VARIABLE",
    "KERNELS",
    "REMAT",
    "SCIENCE_VERSION",
    "Assumed",
    "AssumedSweep",
    "ConfigError",
    "ConvexConfig",
    "DataConfig",
    "Grid",
    "LinearConfig",
    "Lora",
    "ModelConfig",
    "ObjectiveConfig",
    "PlantedConfig",
    "Recipe",
    "RopeScaling",
    "RunConfig",
    "Runtime",
    "Storage",
    "SweepConfig",
    "TrainConfig",
    "VocabularyConfig",
    "VotesConfig",
    "WorldConfig",
    "content_hash",
    "science",
    "to_mapping",
]
