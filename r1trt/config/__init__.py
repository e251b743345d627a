"""Model configurations, independent of any file format."""

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
    "Family",
    "HlaConfig",
    "InterBlock",
    "ModelConfig",
    "MoeConfig",
    "RopeConfig",
    "RopeKind",
    "Scoring",
    "TopkMethod",
]
