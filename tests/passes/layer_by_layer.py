"""Each layer of a typed graph by itself: its error against the exported FP32 layer, on the same inputs.

The error of a layer tells its types: rounding to BF16 shows as some 1e-3, to FP8 as some percent, and FP32
as less than 1e-5. Inputs are those that the typed graph's layer saw, so no error is carried on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan

Array = NDArray[np.float32]
FLOAT = ir.DataType.FLOAT

# Relative RMS errors of a layer whose narrowest type this is; measured are 1e-7 to 3e-6, 9e-4 to 5e-3, and
# 1.3e-2 to 6e-2.
BANDS = {"fp32": (0.0, 2e-5), "bf16": (4e-4, 8e-3), "fp8_e4m3": (9e-3, 0.12)}


def activations_of(model: ir.Model) -> dict[str, list[ir.Value]]:
    """The inputs of each layer that are computed from the graph's inputs, by layer."""
    computed: set[int] = set()
    for node in model.graph:
        if any(
            value is not None and (id(value) in computed or value.is_graph_input()) for value in node.inputs
        ):
            computed.update(id(value) for value in node.outputs)
    return {
        name: [value for value in node.inputs if value is not None and id(value) in computed]
        for name, node in layer_nodes(model).items()
    }


def observed(model: ir.Model) -> ir.Model:
    """A copy whose outputs are also every layer's inputs and result."""
    copy = model.clone()
    values = [value for found in activations_of(copy).values() for value in found]
    values += [node.outputs[0] for node in layer_nodes(copy).values()]
    for value in values:
        if value not in copy.graph.outputs:
            copy.graph.outputs.append(value)
    return copy


def cut(model: ir.Model) -> ir.Model:
    """A copy whose layers compute side by side, each on inputs `<layer>/<value>` that are given."""
    copy = model.clone()
    nodes, activations = layer_nodes(copy), activations_of(copy)
    copy.graph.outputs.clear()
    for name, node in nodes.items():
        for value in dict.fromkeys(activations[name]):
            given = ir.Value(name=f"{name}/{value.name}", type=value.type, shape=value.shape)
            copy.graph.inputs.append(given)
            for index, item in enumerate(node.inputs):
                if item is value:
                    node.replace_input_with(index, given)
    copy.graph.outputs.extend(node.outputs[0] for node in nodes.values())
    return RemoveUnusedNodesPass()(copy).model


def run(
    model: ir.Model, weight_base: Path, feeds: Mapping[str, Any], names: list[str] | None = None
) -> dict[str, Any]:
    """Outputs by name; caches that are not fed are empty."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weight_base))
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    inputs = {
        item.name: feeds[item.name] if item.name in feeds else np.zeros([1, *item.shape[1:]], np.float32)
        for item in session.get_inputs()
    }
    names = names or [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """One layer's relative RMS error, and whether its types had anything to round."""

    name: str
    layer: LayerPrecision
    error: float
    rounds: bool

    @property
    def narrowest(self) -> str:
        kinds = (self.layer.input, self.layer.weight, self.layer.output)
        return next(kind for kind in ("fp8_e4m3", "bf16", "fp32") if kind in kinds)

    @property
    def in_band(self) -> bool:
        low, high = BANDS[self.narrowest]
        return (low if self.rounds else 0.0) <= self.error <= high


def layer_errors(
    exported: ir.Model,
    weight_base: Path,
    plan: PrecisionPlan,
    seen: Mapping[str, Any],
    feeds: Mapping[str, Any],
) -> list[LayerError]:
    """Compare what layers made of their inputs in a typed graph with the exported graph's layers.

    Args:
        exported: Exported graph with the capacity of the typed one.
        weight_base: Directory of its weights.
        plan: Types that each layer should have had.
        seen: Values of the typed graph, by the exported graph's names.
        feeds: The graph's own inputs.
    """
    activations = activations_of(exported)
    given = dict(feeds)
    for name, values in activations.items():
        for value in values:
            x = seen[str(value.name)]
            given[f"{name}/{value.name}"] = _as_routed(x, plan.layers[name])
    expected = run(cut(exported), weight_base, given)
    return [
        LayerError(
            name=name,
            layer=plan.layers[name],
            error=_relative_rms(seen[str(node.outputs[0].name)], expected[str(node.outputs[0].name)]),
            rounds=_rounds(plan.layers[name], [seen[str(value.name)] for value in activations[name]]),
        )
        for name, node in layer_nodes(exported).items()
    ]


def _as_routed(x: Array, layer: LayerPrecision) -> Array:
    """A mixture's routing depends on its input's type: a rounding may decide between two experts."""
    activation = layer.output if layer.quantizes_input else layer.input
    if layer.op != DYNAMIC_MOE.name or activation != "bf16":
        return x
    return x.astype(ml_dtypes.bfloat16).astype(np.float32)


def _rounds(layer: LayerPrecision, inputs: list[Array]) -> bool:
    """Whether BF16 or FP8 changes any number: weights and results always, inputs unless they were rounded."""
    if layer.output == "bf16" or layer.weight in ("bf16", "fp8_e4m3"):
        return True
    return any(
        x.dtype == np.float32 and not np.array_equal(x, x.astype(ml_dtypes.bfloat16).astype(np.float32))
        for x in inputs
    )


def _relative_rms(found: Array, expected: Array) -> float:
    found, expected = np.float64(found), np.float64(expected)
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))
