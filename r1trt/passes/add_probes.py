"""Measuring points in the exported graph: each is an output of a few values, whatever the batch.

Legend: N values of a statistic.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from r1trt.graph.edit import register
from r1trt.lowerings.statistics import MID_INPUTS, Statistic, mid_statistic_function, statistic_function
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.operator import DOMAIN
from r1trt.ops.registry import layer_operator_of

FLOAT = ir.DataType.FLOAT
# The scale of an operator's input, and that input's name; what else `input_scales` has lies inside.
INPUT_SCALE, _INPUT = "input_scale", "x"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One measuring point.

    Attributes:
        name: Name of the graph output.
        layers: Plan keys of the layers whose scale it decides.
        scale: Which of the operator's `input_scales`: the input's own, or one inside the operator.
    """

    name: str
    layers: tuple[str, ...]
    scale: str


def probes_for(model: ir.Model, scales: Mapping[str, Sequence[str]]) -> list[Probe]:
    """The points that scales are measured at; layers that read the same value share one.

    Args:
        model: An exported graph.
        scales: Names of the scales to find, by plan key.
    """
    readers: dict[str, list[str]] = {}
    inside: list[Probe] = []
    for node in model.graph:
        operator, key = layer_operator_of(node), str(node.name)
        if operator is None:
            continue
        for scale in scales.get(key, ()):
            if scale == INPUT_SCALE:
                readers.setdefault(str(operator.required(node, _INPUT).name), []).append(key)
            else:
                inside.append(Probe(name=f"{key}/{scale}", layers=(key,), scale=scale))
    shared = [
        Probe(name=f"{keys[0]}/{INPUT_SCALE}", layers=tuple(keys), scale=INPUT_SCALE)
        for keys in readers.values()
    ]
    return shared + inside


class AddProbesPass(ir.passes.InPlacePass):
    """The graph's outputs become the probes' statistics, FLOAT [N] each, and nothing else.

    Args:
        probes: Measuring points.
        statistic: What to measure.
        scales: The N candidate scales of each probe, where the statistic wants them.
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
        bodies: dict[Hashable, ir.Function] = {}
        for probe in self._probes:
            self._add(model, nodes[probe.layers[0]], probe, bodies)
        return ir.passes.PassResult(model, True)

    def _add(self, model: ir.Model, node: ir.Node, probe: Probe, bodies: dict[Hashable, ir.Function]) -> None:
        numbers = np.asarray(self._scales.get(probe.name, [1.0] * self._statistic.size), np.float32)
        scales = register(model.graph, ir.tensor(numbers, name=f"{probe.name}/scales"))
        operator = layer_operator_of(node)
        inputs: list[ir.Value | None]
        if operator is not None and probe.scale == INPUT_SCALE:
            inputs, function = [operator.required(node, _INPUT)], statistic_function(self._statistic)
        else:
            inputs = [DYNAMIC_MOE.input(node, name) for name in MID_INPUTS]
            function = self._mid_function(node, bodies)
        model.functions.setdefault(function.identifier(), function)
        size = ir.Shape([self._statistic.size])
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

    def _mid_function(self, node: ir.Node, made: dict[Hashable, ir.Function]) -> ir.Function:
        """The function of a mixture's spec; those of a graph tell themselves apart by their overloads."""
        spec = DYNAMIC_MOE.spec_from_node(node)
        if spec not in made:
            made[spec] = mid_statistic_function(spec, self._statistic, str(len(made) + 1) if made else "")
        return made[spec]
