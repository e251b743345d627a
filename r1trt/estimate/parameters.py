"""How many parameters a model has, and how many of them a token uses."""

from __future__ import annotations

import math

from r1trt.config import LayerConfig, ModelConfig, MoeConfig
from r1trt.estimate.source import SizedModel
from r1trt.families import expected_tensors
from r1trt.ops.moe_spec import PROJECTIONS


def parameters(model: SizedModel) -> int:
    """Elements of all weights; a head that is tied to the embedding counts once."""
    return sum(math.prod(tensor.shape) for tensor in model.tensors.values())


def parameters_of_config(config: ModelConfig) -> int:
    """The same of a configuration."""
    return sum(map(math.prod, expected_tensors(config).values()))


def active_parameters(model: SizedModel) -> int:
    """Those without the experts that a token does not go to, where it goes to `top_k`."""
    return parameters(model) - sum(_idle(model.config, layer) for layer in model.config.layers)


def _idle(config: ModelConfig, layer: LayerConfig) -> int:
    mlp = layer.mlp
    if not isinstance(mlp, MoeConfig):
        return 0
    return (mlp.num_experts - mlp.top_k) * PROJECTIONS * config.hidden_size * mlp.expert_width
