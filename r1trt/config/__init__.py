"""Model configurations, and their reader for Hugging Face's config.json."""

from r1trt.config.huggingface import FAMILY_OF_ARCHITECTURE, model_config_from_dict
from r1trt.config.model import (
    Family,
    HlaConfig,
    InterBlock,
    ModelConfig,
    MoeConfig,
    RopeConfig,
    RopeKind,
    Scoring,
    TopkMethod,
)

__all__ = [
    "FAMILY_OF_ARCHITECTURE",
    "Family",
    "HlaConfig",
    "InterBlock",
    "ModelConfig",
    "MoeConfig",
    "RopeConfig",
    "RopeKind",
    "Scoring",
    "TopkMethod",
    "model_config_from_dict",
]
