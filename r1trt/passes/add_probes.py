"""Measuring points in the exported graph: each is an output of a few values, whatever the batch.

Legend: N values of a statistic.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from r1trt.graph.codes import CODE_TYPES, FP8_CODES
from r1trt.graph.edit import register
from r1trt.lowerings.inner_statistics import inner_statistic
from r1trt.lowerings.statistics import Statistic, statistic_function
from r1trt.ops.operator import DOMAIN, Operator
from r1trt.ops.registry import layer_operator_of

FLOAT = ir.DataType.FLOAT
# The scale of an operator's first input; what else `input_scales` has lies inside.
INPUT_SCALE = "input_scale"

# Functions that measure inside: by operator and scale, then by spec.
_Bodies = dict[tuple[str, str], dict[Hashable, ir.Function]]


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One measuring point.

    Attributes:
        name: Name of the graph output.
        layers: Plan keys of the layers whose scale it decides.
        scale: Which of the operator's `input_scales`: the input's own, or one inside the operator; or another
            of `INNER_STATISTICS`, which is no scale.
        codes: The type that these layers quantize the value to, as plans name it.
        statistic: What is measured in place of the pass's statistic.
    """

    name: str
    layers: tuple[str, ...]
    scale: str
    codes: str = FP8_CODES.name
    statistic: Statistic | None = None


def probes_for(
    model: ir.Model, scales: Mapping[str, Sequence[str]], codes: Mapping[str, str] | None = None
) -> list[Probe]:
    """The points that scales are measured at; layers that quantize the same value to one type share one.

    Args:
        model: An exported graph.
        scales: Names of the scales to find, by plan key.
        codes: The type that each layer's input is quantized to, by plan key; FP8 where it is not said.

    Raises:
        PlanError: Nothing measures one of the scales.
    """
    readers: dict[tuple[str, str], list[str]] = {}
    inside: list[Probe] = []
    for node in model.graph:
        operator, key = layer_operator_of(node), str(node.name)
        if operator is None:
            continue
        for scale in scales.get(key, ()):
            if scale == INPUT_SCALE:
                kind = (codes or {}).get(key, FP8_CODES.name)
                readers.setdefault((str(_first_input(node).name), kind), []).append(key)
            else:
                inner_statistic(operator, scale)
                inside.append(Probe(name=f"{key}/{scale}", layers=(key,), scale=scale))
    shared = [
        Probe(name=f"{keys[0]}/{INPUT_SCALE}", layers=tuple(keys), scale=INPUT_SCALE, codes=kind)
        for (_, kind), keys in readers.items()
    ]
    return shared + inside


class AddProbesPass(ir.passes.InPlacePass):
    """The graph's outputs become the probes' statistics, FLOAT [N] each, and nothing else.

    Args:
        probes: Measuring points.
        statistic: What to measure, where a probe has none of its own.
        scales: Numbers that the statistic wants of each probe: N candidate scales, or its largest magnitude.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        statistic: Statistic,
        scales: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        super().__init__()
        self._probes, self._statistic, self._scales = probes, statistic, scales or {}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Needs the probes' layers in the graph; what computes the old outputs alone is left for removal."""
        nodes = {str(node.name): node for node in model.graph}
        model.graph.outputs.clear()
        bodies: _Bodies = {}
        for probe in self._probes:
            self._add(model, nodes[probe.layers[0]], probe, bodies)
        return ir.passes.PassResult(model, True)

    def _add(self, model: ir.Model, node: ir.Node, probe: Probe, bodies: _Bodies) -> None:
        statistic = probe.statistic or replace(self._statistic, codes=CODE_TYPES[probe.codes])
        numbers = np.asarray(self._scales.get(probe.name, [1.0] * statistic.wants), np.float32)
        scales = register(model.graph, ir.tensor(numbers, name=f"{probe.name}/scales"))
        inputs: list[ir.Value | None]
        if probe.scale == INPUT_SCALE:
            inputs, function = [_first_input(node)], statistic_function(statistic)
        else:
            inputs, function = self._inside(node, probe.scale, statistic, bodies)
        model.functions.setdefault(function.identifier(), function)
        size = ir.Shape([statistic.size])
        output = ir.Value(name=probe.name, type=ir.TensorType(FLOAT), shape=size)
        call = ir.node(
            function.name,
            [*inputs, scales],
            domain=DOMAIN,
            overload=function.overload,
            outputs=[output],
            name=f"{probe.name}/measure",
        )
        model.graph.append(call)
        model.graph.outputs.append(output)

    @staticmethod
    def _inside(
        node: ir.Node, scale: str, statistic: Statistic, made: _Bodies
    ) -> tuple[list[ir.Value | None], ir.Function]:
        """What measures a value inside a node; functions of several specs differ in their overloads."""
        operator = _operator(node)
        inner, spec = inner_statistic(operator, scale), operator.spec_from_node(node)
        bodies = made.setdefault((operator.name, scale), {})
        if spec not in bodies:
            overload = str(len(bodies) + 1) if bodies else ""
            bodies[spec] = inner.function(spec, statistic, overload)
        return [operator.input(node, name) for name in inner.inputs(spec)], bodies[spec]


def _operator(node: ir.Node) -> Operator[Any]:
    operator = layer_operator_of(node)
    assert operator is not None, "probes measure layers"
    return operator


def _first_input(node: ir.Node) -> ir.Value:
    operator = _operator(node)
    return operator.required(node, operator.inputs[0])
