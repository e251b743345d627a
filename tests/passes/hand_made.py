"""Small graphs in the exported graph's vocabulary, made by hand, and a way to run them in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort

from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from r1trt.ops.registry import layer_functions
from r1trt.precision.checks import graph_hash
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import THRESHOLDS

FLOAT = ir.DataType.FLOAT
Array = npt.NDArray[Any]
Dims = Sequence[int | str]


class HandMade:
    """Collects inputs, weights, nodes and outputs of one graph; activations are FLOAT."""

    def __init__(self) -> None:
        self.graph = ir.Graph([], [], nodes=[], name="t", opset_imports={"": OPSET, DOMAIN: DOMAIN_VERSION})

    def input(self, name: str, dims: Dims, dtype: ir.DataType = FLOAT) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        self.graph.inputs.append(value)
        return value

    def weight(self, name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
        )
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        name: str,
        inputs: Sequence[ir.Value | None],
        dims: Dims,
        *,
        domain: str = DOMAIN,
        dtype: ir.DataType = FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        output = ir.Value(name=f"{name}/out", type=ir.TensorType(dtype), shape=ir.Shape(dims))
        self.graph.append(ir.node(op_type, inputs, attributes, domain=domain, outputs=[output], name=name))
        return output

    def output(self, value: ir.Value, name: str) -> None:
        value.name = name
        self.graph.outputs.append(value)

    def model(self) -> ir.Model:
        called = {node.op_type for node in self.graph}
        bodies = [body for name, body in layer_functions().items() if name in called]
        return ir.Model(self.graph, ir_version=IR_VERSION, functions=bodies)


def plan_of(model: ir.Model, layers: Mapping[str, LayerPrecision]) -> PrecisionPlan:
    return PrecisionPlan(
        model_hash=graph_hash(model), arch="ada", precision="fp8", thresholds=THRESHOLDS["fp8"], layers=layers
    )


def outputs_of(model: ir.Model, feeds: Mapping[str, Array], *, optimize: bool = True) -> dict[str, Array]:
    """Run a model; results by output name."""
    options = ort.SessionOptions()
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def bf16(values: Array) -> npt.NDArray[np.float32]:
    """Round to BF16, kept as FP32."""
    rounded: npt.NDArray[np.float32] = values.astype(ml_dtypes.bfloat16).astype(np.float32)
    return rounded


def fp8_codes(values: Array, scale: Array | float) -> Array:
    """E4M3 codes by ml_dtypes alone."""
    scaled = np.clip(values.astype(np.float32) / np.asarray(scale, np.float32), -448, 448)
    return scaled.astype(ml_dtypes.float8_e4m3fn)


def fp8_grid(values: Array, scale: Array | float) -> npt.NDArray[np.float32]:
    """Rounded to the FP8 grid, then to BF16 as DequantizeLinear to BFLOAT16 does."""
    return bf16(fp8_codes(values, scale).astype(np.float32) * np.asarray(scale, np.float32))
