"""A reference module that computes as a precision plan says, and that can be trained so.

The module's parameters are what the forward pass multiplies with; the weights that the optimizer moves are
FP32 masters beside them. Rounding a master to its parameter happens once a step: to BF16, which is how the
result is stored, and from there to FP8 where the plan says so, with the scale of the largest magnitude. A
parameter's gradient is its master's: straight through both roundings, and no weight is clipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from r1trt.finetune.fake_quantization import ActivationRange, quantized
from r1trt.graph.codes import FP8_CODES
from r1trt.model import R1AsaForCausalLM
from r1trt.model.moe import DynamicMoe, SwiGlu
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.scales_file import short_float

ScaleName = tuple[str, str]
"""Key of a plan's layer, and name of its scale."""


@dataclass(frozen=True, kw_only=True)
class _Quantized:
    """The parts of a module that share scales.

    Attributes:
        inputs: Modules whose inputs share a scale, by its name.
        weights: Parameters that share one.
    """

    inputs: Mapping[ScaleName, Sequence[nn.Module]]
    weights: Sequence[tuple[Tensor, ...]]


class PlannedModule:
    """A module under a plan.

    Args:
        module: In FP32; its inputs are quantized from here on, and its parameters rounded by `round_weights`.
        plan: A plan of its exported graph, with all activation scales.
    """

    def __init__(self, module: R1AsaForCausalLM, plan: PrecisionPlan) -> None:
        self.module = module
        parts = [
            _quantized_parts(module, key, layer)
            for key, layer in plan.layers.items()
            if layer.quantizes_input
        ]
        self.ranges: dict[ScaleName, ActivationRange] = {}
        for part in parts:
            for (key, scale), readers in part.inputs.items():
                known = getattr(plan.layers[key], scale) * FP8_CODES.largest
                self.ranges[key, scale] = ActivationRange(known)
                for reader in readers:
                    reader.register_forward_pre_hook(self.ranges[key, scale])
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.masters = {name: p.detach().float().clone() for name, p in self.parameters.items()}
        names = {id(p): name for name, p in self.parameters.items()}
        self._groups = [tuple(names[id(p)] for p in group) for part in parts for group in part.weights]

    @torch.no_grad()
    def store_weights(self) -> None:
        """Parameters become what a checkpoint stores of the masters: BF16 values."""
        for name, parameter in self.parameters.items():
            parameter.copy_(_rounded_to_bf16(self.masters[name]))

    @torch.no_grad()
    def round_weights(self) -> None:
        """Parameters become what the plan's products multiply with."""
        self.store_weights()
        for group in self._groups:
            weights = [self.parameters[name] for name in group]
            scale = float(FP8_CODES.scale(max(float(weight.abs().amax()) for weight in weights)))
            for weight in weights:
                weight.copy_(quantized(weight, scale))

    def advance_ranges(self) -> None:
        """A step is over: its activations decide with about the next one's scales."""
        for item in self.ranges.values():
            item.advance()

    def activation_scales(self) -> dict[str, dict[str, float]]:
        """The scales as a plan has them, by layer."""
        found: dict[str, dict[str, float]] = {}
        for (key, scale), item in self.ranges.items():
            found.setdefault(key, {})[scale] = short_float(item.scale)
        return found


def _rounded_to_bf16(values: Tensor) -> Tensor:
    return values.to(torch.bfloat16).float()


def _quantized_parts(module: R1AsaForCausalLM, key: str, layer: LayerPrecision) -> _Quantized:
    """What a layer of a plan is in the module: a linear of the same name, or a layer's experts."""
    modules = dict(module.named_modules())
    linear, experts = modules.get(key), modules.get(key.rpartition(".")[0])
    if isinstance(linear, nn.Linear):
        return _Quantized(inputs={(key, "input_scale"): [linear]}, weights=[(linear.weight,)])
    assert isinstance(experts, DynamicMoe), f"{key} ({layer.op}) is no part of the reference module"
    parts = list(_experts(experts))
    return _Quantized(
        inputs={
            (key, "input_scale"): [part for expert in parts for part in (expert.gate_proj, expert.up_proj)],
            (key, "mid_scale"): [expert.down_proj for expert in parts],
        },
        weights=list(
            chain.from_iterable(
                ((expert.gate_proj.weight, expert.up_proj.weight), (expert.down_proj.weight,))
                for expert in parts
            )
        ),
    )


def _experts(layer: DynamicMoe) -> Iterator[SwiGlu]:
    for expert in (*layer.experts, layer.shared_expert):
        if isinstance(expert, SwiGlu):
            yield expert
