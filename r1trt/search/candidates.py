"""What each layer could be: complete plans of one kind each, and the groups of layers that choose together.

Layers that read one value are one group: a builder multiplies them as one product, and quantizes their input
once, where their types agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from r1trt.arch import architecture
from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.errors import PlanError
from r1trt.export.io import ExportedModel
from r1trt.ops.layer_precision import FP8, LayerPrecision
from r1trt.ops.registry import layer_operator_of, operator_of_layer
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore

BF16, FP8_WEIGHTS, FP8_TENSOR, FP8_ROW = "bf16", "fp8 weights", "fp8", "fp8 by row"
"""Kinds of candidates, the widest first: BF16; FP8 weights that meet BF16 activations, for weights are what
decoding reads; FP8 products, whose weights have one scale; the same with one a row of linears."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a group could be.

    Attributes:
        kind: Which candidate it is from.
        layers: The group's layers in it, with their scales.
    """

    kind: str
    layers: Mapping[str, LayerPrecision]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers that choose together.

    Attributes:
        name: The first one's name, and what the others' end in.
        choices: At least two, the widest first.
    """

    name: str
    choices: tuple[Choice, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of its layers."""
        return tuple(self.choices[0].layers)


def candidate_plans(
    export: ExportedModel, arch: str, calibration: CalibrationConfig, progress: Progress = ignore
) -> dict[str, PrecisionPlan]:
    """Complete plans by kind: BF16 throughout, and FP8 wherever an operator can have it.

    Args:
        export: The model.
        arch: `--arch`.
        calibration: How FP8 scales are found.
        progress: Called with (phase, done, total).

    Raises:
        PlanError: The architecture has nothing narrower than BF16 to offer.
    """
    target = architecture(arch)
    if not target.fp8 or not target.sms:
        raise PlanError(
            f"There is nothing to choose from for --arch {arch}.",
            found=target.fp8_reason if target.sms else "ONNX Runtime computes FP8 and BF16 in FP32",
            expected="an architecture with products narrower than BF16",
        )
    wide = plan_from_rules(export.model, arch, "bf16")
    tensor = calibrated_plan(
        _narrow(export.model, arch, "tensor"), export.model, export.weight_base, calibration, progress
    )
    row = _with_input_scales(_narrow(export.model, arch, "channel"), tensor)
    row = calibrated_plan(row, export.model, export.weight_base, calibration, progress)
    return {BF16: wide, FP8_WEIGHTS: _weights_alone(tensor, wide), FP8_TENSOR: tensor, FP8_ROW: row}


def _narrow(model: ir.Model, arch: str, scaling: str) -> PrecisionPlan:
    """The rules' FP8 plan, and FP8 for what they leave wide although its operator can have it."""
    plan = plan_from_rules(model, arch, "fp8", weight_scaling="channel" if scaling == "channel" else "tensor")
    layers = dict(plan.layers)
    for name, node in layer_nodes(model).items():
        operator, layer = layer_operator_of(node), layers[name]
        if operator is not None and FP8 in operator.types.input and not layer.quantizes_input:
            layers[name] = operator.default_layer(node, "bf16", fp8=True)
    return replace(plan, layers=layers)


def _weights_alone(plan: PrecisionPlan, wide: PrecisionPlan) -> PrecisionPlan:
    """Linears' activations stay wide; of experts there is no such form, and they stay as in `wide`."""
    layers = {
        name: replace(layer, input=layer.output, input_scale=None)
        if layer.quantizes_input and operator_of_layer(layer).input_scales == ("input_scale",)
        else wide.layers[name]
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def _with_input_scales(plan: PrecisionPlan, measured: PrecisionPlan) -> PrecisionPlan:
    """A plan with the input scales of another: they do not depend on how weights are scaled."""
    layers = {
        name: replace(layer, input_scale=other.input_scale, mid_scale=other.mid_scale)
        for name, layer in plan.layers.items()
        if (other := measured.layers[name])
    }
    return replace(plan, layers=layers)


def groups_of_candidates(model: ir.Model, plans: Mapping[str, PrecisionPlan]) -> list[Group]:
    """The layers in which plans differ, by what they read, in the graph's order.

    Args:
        model: Exported graph.
        plans: Candidates by kind, the widest first.
    """
    readers: dict[str, list[str]] = {}
    for name, node in layer_nodes(model).items():
        if len({_types(plan.layers[name]) for plan in plans.values()}) > 1:
            given = node.inputs[0]
            assert given is not None, "a layer reads something"
            readers.setdefault(str(given.name), []).append(name)
    return [Group(name=_joined(names), choices=_choices(names, plans)) for names in readers.values()]


def _types(layer: LayerPrecision) -> tuple[object, ...]:
    return layer.input, layer.weight, layer.weight_scale


def _choices(names: Sequence[str], plans: Mapping[str, PrecisionPlan]) -> tuple[Choice, ...]:
    found: list[Choice] = []
    for kind, plan in plans.items():
        layers = {name: plan.layers[name] for name in names}
        if all(layers != choice.layers for choice in found):
            found.append(Choice(kind=kind, layers=layers))
    return tuple(found)


def _joined(names: Sequence[str]) -> str:
    return "+".join([names[0], *(name.rpartition(".")[2] for name in names[1:])])


def plan_of_choices(base: PrecisionPlan, choices: Sequence[Choice]) -> PrecisionPlan:
    """A plan with these choices, everything else being the base's."""
    layers = dict(base.layers)
    for choice in choices:
        layers |= choice.layers
    return replace(base, layers=layers)
