"""Which layers of a plan are TensorRT's own, and which are plugins."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import onnx_ir as ir

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import Implementation, LayerPrecision
from r1trt.ops.registry import operator_of
from r1trt.precision.plan import PrecisionPlan
from r1trt.text import listing

PluginUse = Literal["needed", "all"]
PLUGIN_USES: tuple[PluginUse, ...] = get_args(PluginUse)


def plugin_layers(plan: PrecisionPlan) -> frozenset[str]:
    """Names of the layers that the plan gives to plugins."""
    return frozenset(name for name, layer in plan.layers.items() if layer.implementation == "plugin")


def with_implementations(plan: PrecisionPlan, model: ir.Model, use: PluginUse) -> PrecisionPlan:
    """Decide what the plan leaves open.

    Args:
        plan: A plan for TensorRT; what it says already stays.
        model: The exported graph.
        use: "needed": plugins for what TensorRT has no layers for; "all": for every layer that has one.

    Raises:
        PlanError: The plan has a layer as native that needs its plugin, or that `use` wants as one.
    """
    nodes = {str(node.name): node for node in model.graph if operator_of(node) is not None}
    layers = {
        name: _decided(layer, nodes[name], use) if name in nodes else layer
        for name, layer in plan.layers.items()
    }
    native = [name for name in nodes if name in layers and layers[name].implementation == "native"]
    if missing := [
        f"'{name}' is native, but {reason}" for name in native if (reason := _reason(nodes[name]))
    ]:
        raise PlanError(
            "The precision plan asks TensorRT for layers that it does not have.",
            found=listing(missing),
            fix="set their implementation to plugin, or leave it out",
        )
    if use == "all" and native:
        raise PlanError(
            "The precision plan and --plugins all contradict each other.",
            found=listing([f"'{name}' is native" for name in native]),
            fix="leave --plugins out, or set these layers' implementation to plugin",
        )
    return replace(plan, layers=layers)


def without_native(plan: PrecisionPlan) -> PrecisionPlan:
    """A plan for a builder without plugins: to it nothing is native rather than a plugin."""
    layers = {
        name: replace(layer, implementation=None) if layer.implementation == "native" else layer
        for name, layer in plan.layers.items()
    }
    return replace(plan, layers=layers)


def _decided(layer: LayerPrecision, node: ir.Node, use: PluginUse) -> LayerPrecision:
    if layer.implementation is not None:
        return layer
    implementation: Implementation = "plugin" if use == "all" or _reason(node) else "native"
    return replace(layer, implementation=implementation)


def _reason(node: ir.Node) -> str | None:
    operator = operator_of(node)
    return None if operator is None else operator.plugin_reason(node)
