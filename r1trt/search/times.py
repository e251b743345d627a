"""What a choice gains: time on a device by the roofline, or bytes of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import onnx_ir as ir

from r1trt.data_types import DATA_TYPES
from r1trt.errors import UsageError
from r1trt.estimate.gpus import DEVICE_OF_ARCH, DEVICES, Device
from r1trt.estimate.times import seconds_of_cost
from r1trt.export.io import load_export
from r1trt.ops.cost import CallSize, Cost
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import Operator
from r1trt.ops.registry import layer_operator_of
from r1trt.precision.checks import check_plan_fits_model, layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.search.candidates import Choice

Objective = Literal["time", "bytes"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
_Form = tuple[str | None, int | None]
"""Type and block size of a weight: readers that agree in both share its tensors."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One request, again and again: what its prompt and its answer take decides what is worth narrowing.

    Attributes:
        batch: Sequences at a time.
        prompt_tokens: Tokens of a prompt, read in one call.
        new_tokens: Tokens of an answer, a call each.
    """

    batch: int = 1
    prompt_tokens: int = 512
    new_tokens: int = 128

    def __post_init__(self) -> None:
        if min(self.batch, self.prompt_tokens, self.new_tokens) < 1:
            raise UsageError("A workload has sequences, prompts and answers.", found=self)

    @property
    def calls(self) -> tuple[tuple[CallSize, int], ...]:
        """Its calls, each with how often it happens; all of an answer's are like the one in its middle."""
        prompt = CallSize(batch=self.batch, tokens=self.prompt_tokens)
        past = self.prompt_tokens + self.new_tokens // 2
        return (prompt, 1), (CallSize(batch=self.batch, tokens=1, past=past), self.new_tokens)


def device_for_arch(arch: str, name: str | None = None) -> Device:
    """The device whose times are modelled.

    Raises:
        ConfigError: There is none of this name, or it is of another architecture.
    """
    found = DEVICES.get(name or DEVICE_OF_ARCH[arch])
    fitting = [device.name for device in DEVICES.values() if device.arch == arch]
    if found is None or found.arch != arch:
        raise UsageError(f"No such device of --arch {arch}.", found=name, expected=" | ".join(fitting))
    return found


class CostModel:
    """Costs of choices.

    Args:
        model: Exported graph.
        plan: The types of layers that are not chosen, for the weights that they share with others.
        objective: What is to be small.
        device: Whose times.
        workload: Of what.
    """

    def __init__(
        self, model: ir.Model, plan: PrecisionPlan, objective: Objective, device: Device, workload: Workload
    ) -> None:
        self._nodes, self._layers = layer_nodes(model), plan.layers
        self.objective, self.device, self.workload = objective, device, workload

    def cost(self, choice: Choice) -> float:
        """Seconds of the workload, or bytes of weights."""
        return self.bytes(choice) if self.objective == "bytes" else self.seconds(choice)

    def seconds(self, choice: Choice) -> float:
        """Seconds that the choice's layers take in the whole workload."""
        return sum(
            times * sum(self._seconds_of_layer(name, choice, call) for name in choice.layers)
            for call, times in self.workload.calls
        )

    def bytes(self, choice: Choice) -> float:
        """Bytes that the choice's weights add to a build.

        A weight that several layers read, as a tied head's is the embedding's table, is stored once for each
        type: it adds nothing in a type that a layer outside of the choice has, and is counted once in it.
        """
        added: dict[tuple[ir.Value, _Form], int] = {}
        for name, layer in choice.layers.items():
            for value in self._weights(name):
                if _form(layer) not in self._forms_outside(value, choice):
                    added[value, _form(layer)] = _stored_bytes(value, layer)
        return sum(added.values())

    def elements(self, name: str) -> int:
        """Weights of a layer."""
        return sum(map(_elements, self._weights(name)))

    def _weights(self, name: str) -> list[ir.Value]:
        return self._operator(name).typed_weights(self._nodes[name])

    def _forms_outside(self, value: ir.Value, choice: Choice) -> set[_Form]:
        """How the layers that a choice leaves as they are hold a weight."""
        readers = {str(node.name) for node in value.consumers()} - choice.layers.keys()
        return {_form(self._layers[reader]) for reader in readers & self._layers.keys()}

    def _seconds_of_layer(self, name: str, choice: Choice, call: CallSize) -> float:
        cost, layer = self._cost(name, choice, call), choice.layers[name]
        seconds = seconds_of_cost(cost, self.device)
        if layer.quantizes_input and isinstance(layer.weight_scale, tuple):
            # The product is written in FP32, and multiplied by a scale a column behind it.
            results = sum(cost.written_bytes.values()) // DATA_TYPES[layer.output].bytes
            seconds += 2 * DATA_TYPES["fp32"].bytes * results / self.device.reachable_bandwidth
        return seconds

    def _cost(self, name: str, choice: Choice, call: CallSize) -> Cost:
        operator = self._operator(name)
        return operator.cost(operator.spec_from_node(self._nodes[name]), choice.layers[name], call)

    def _operator(self, name: str) -> Operator[Any]:
        operator = layer_operator_of(self._nodes[name])
        assert operator is not None, "a plan has layers of operators alone"
        return operator


def _form(layer: LayerPrecision) -> _Form:
    return layer.weight, layer.block_size


def _stored_bytes(weight: ir.Value, layer: LayerPrecision) -> int:
    """Of its elements, and of the scales of its blocks."""
    elements = _elements(weight)
    scales = elements // layer.block_size if layer.block_size else 0
    return elements * DATA_TYPES[str(layer.weight)].bits // 8 + scales * DATA_TYPES["fp32"].bytes


def _elements(weight: ir.Value) -> int:
    return math.prod(size for size in weight.shape or () if isinstance(size, int))


def seconds_by_layer(plan: PrecisionPlan, model: Path, device: str | None = None) -> dict[str, float]:
    """Modelled time of each layer of a plan in one default workload, by name.

    Args:
        plan: The plan.
        model: Export directory of its model.
        device: Whose times; None takes the architecture's.

    Raises:
        R1TrtError: The plan is another model's, or there is no such device.
    """
    export = load_export(model)
    check_plan_fits_model(plan, export.model)
    costs = CostModel(export.model, plan, "time", device_for_arch(plan.arch, device), Workload())
    return {
        name: costs.seconds(Choice(kind="planned", layers={name: layer}))
        for name, layer in plan.layers.items()
    }
