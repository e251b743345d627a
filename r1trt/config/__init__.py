"""Model configurations: frozen, validated on construction, independent of any file format."""

from r1trt.config.attention import AttentionConfig, GqaConfig, HlaConfig, InterBlock
from r1trt.config.mla import MlaConfig
from r1trt.config.mlp import DenseConfig, MlpConfig, MoeConfig, Scoring, TopkMethod
from r1trt.config.model import LayerConfig, ModelConfig
from r1trt.config.quantization import SCALE_BLOCK, SCALE_SUFFIXES, BlockFp8Config, scale_shape
from r1trt.config.rope import RopeConfig, RopeKind

__all__ = [
    "SCALE_BLOCK",
    "SCALE_SUFFIXES",
    "AttentionConfig",
    "BlockFp8Config",
    "DenseConfig",
    "GqaConfig",
    "HlaConfig",
    "InterBlock",
    "LayerConfig",
    "MlaConfig",
    "MlpConfig",
    "ModelConfig",
    "MoeConfig",
    "RopeConfig",
    "RopeKind",
    "Scoring",
    "TopkMethod",
    "scale_shape",
]
