"""What each layer could be: complete plans of one kind each, and the groups of layers that choose together.

Layers that read one value are one group: a builder multiplies them as one product, and quantizes their input
once, where their types agree. A head and the embedding that it is tied to are one, too: they store one table
where their types agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from r1trt.arch import Backend, BuildPrecision, architecture
from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan
from r1trt.export.io import ExportedModel
from r1trt.ops.layer_precision import FP8, INT4, INT8, LayerPrecision, Precision
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import THRESHOLDS, layer_in_blocks, plan_from_rules
from r1trt.progress import Progress, ignore
from r1trt.search.kinds import Kind, kinds_for_arch

WIDEST: Mapping[Backend, BuildPrecision] = {"tensorrt": "bf16", "tensorrt-rtx": "bf16", "onnxruntime": "fp32"}
"""What everything is in that is not narrowed."""
_PRECISIONS: Mapping[Precision, BuildPrecision] = {FP8: "fp8", INT8: "int8", INT4: "int4"}


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
    """Complete plans by kind: the widest types throughout, and each narrower one where operators have it.

    Args:
        export: The model.
        arch: `--arch`.
        calibration: How scales are found.
        progress: Called with (phase, done, total).

    Raises:
        PlanError: The architecture has nothing narrower than BF16 to offer.
    """
    target = architecture(arch)
    widest = WIDEST[target.backend]
    wide = plan_from_rules(export.model, arch, widest)
    plans: dict[str, PrecisionPlan] = {widest: wide}
    measured: dict[Precision, PrecisionPlan] = {}
    for kind in kinds_for_arch(target):
        plan = _narrow(export.model, wide, kind)
        if kind.type in measured:
            plan = _with_input_scales(plan, measured[kind.type])
        plan = calibrated_plan(plan, export.model, export.weight_base, calibration, progress)
        if kind.quantizes_input and kind.block_size is None:
            measured.setdefault(kind.type, plan)
        plans[kind.name] = plan
    return plans


def _narrow(model: ir.Model, wide: PrecisionPlan, kind: Kind) -> PrecisionPlan:
    """A kind's types wherever an operator can have them, its scales open."""
    layers = {name: _narrow_layer(node, wide.layers[name], kind) for name, node in layer_nodes(model).items()}
    scaling = {} if kind.block_size else {"weight_scaling": "channel" if kind.by_row else "tensor"}
    precision = _PRECISIONS[kind.type]
    return replace(
        wide, precision=precision, thresholds=THRESHOLDS[precision], calibration=scaling, layers=layers
    )


def _narrow_layer(node: ir.Node, wide: LayerPrecision, kind: Kind) -> LayerPrecision:
    operator = layer_operator_of(node)
    if operator is None:
        return wide
    if kind.block_size is not None:
        return layer_in_blocks(node, wide, kind.type)
    if kind.type not in operator.types.weight:
        return wide
    if kind.quantizes_input and kind.type == FP8:
        return operator.default_layer(node, "bf16", fp8=True)
    if operator.input_scales != ("input_scale",):
        return wide  # experts have no such form
    return replace(wide, weight=kind.type, input=kind.type if kind.quantizes_input else wide.input)


def _with_input_scales(plan: PrecisionPlan, measured: PrecisionPlan) -> PrecisionPlan:
    """A plan with the input scales of another: they do not depend on how weights are scaled."""
    layers = {
        name: replace(layer, input_scale=other.input_scale, mid_scale=other.mid_scale)
        if layer.quantizes_input and (other := measured.layers[name])
        else layer
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def groups_of_candidates(model: ir.Model, plans: Mapping[str, PrecisionPlan]) -> list[Group]:
    """The layers in which plans differ, by what they read, weights that they share included, in graph order.

    Args:
        model: Exported graph.
        plans: Candidates by kind, the widest first.
    """
    readers: dict[str, list[str]] = {}
    group_of_weight: dict[ir.Value, str] = {}
    for name, node in layer_nodes(model).items():
        if len({_types(plan.layers[name]) for plan in plans.values()}) > 1:
            operator, given = layer_operator_of(node), node.inputs[0]
            assert operator is not None and given is not None, "a layer reads something"
            group = str(given.name)
            for weight in operator.typed_weights(node):
                group = group_of_weight.setdefault(weight, group)
            readers.setdefault(group, []).append(name)
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
