"""The exported graph's small layers as model-local functions: one node a layer, which is what a plan names.

All of them compute in FLOAT and cast a weight where it is used, so weights keep the checkpoint's own bytes.
Legend: x [...,D] activations, w [N,D] a weight as Hugging Face stores it.
"""

from __future__ import annotations

import onnx_ir as ir
from onnxscript._internal.builder import OpBuilder

from r1trt.lowerings.builder import function_from_body, to_float

EMBEDDING = "R1Embedding"
RMS_NORM = "R1RMSNorm"
LINEAR = "R1Linear"
LINEAR_BIAS = "R1LinearBias"
SWIGLU = "R1SwiGLU"
LAMBDA_GATE = "R1LambdaGate"


def _linear(op: OpBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    y: ir.Value = op.MatMul(x, op.Transpose(to_float(op, w), perm=[1, 0]))
    return y


def _linear_bias(op: OpBuilder, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
    y: ir.Value = op.Add(_linear(op, x, w), to_float(op, b))
    return y


def _embedding(op: OpBuilder, ids: ir.Value, w: ir.Value) -> ir.Value:
    return to_float(op, op.Gather(w, ids, axis=0))


def _rms_norm(op: OpBuilder, x: ir.Value, w: ir.Value) -> ir.Value:
    epsilon = ir.RefAttr("epsilon", "epsilon", ir.AttributeType.FLOAT)
    y: ir.Value = op.RMSNormalization(x, to_float(op, w), axis=-1, epsilon=epsilon)
    return y


def _swiglu(op: OpBuilder, gate: ir.Value, up: ir.Value) -> ir.Value:
    y: ir.Value = op.Mul(op.Mul(gate, op.Sigmoid(gate)), up)
    return y


def _lambda_gate(op: OpBuilder, x: ir.Value, w: ir.Value, b: ir.Value) -> ir.Value:
    lam: ir.Value = op.Sigmoid(_linear_bias(op, x, w, b))
    return lam


def layer_functions() -> dict[str, ir.Function]:
    """All layer functions by name."""
    made = [
        function_from_body(EMBEDDING, ["ids", "w"], _embedding),
        function_from_body(RMS_NORM, ["x", "w"], _rms_norm, {"epsilon": 1e-6}),
        function_from_body(LINEAR, ["x", "w"], _linear),
        function_from_body(LINEAR_BIAS, ["x", "w", "b"], _linear_bias),
        function_from_body(SWIGLU, ["gate", "up"], _swiglu),
        function_from_body(LAMBDA_GATE, ["x", "w", "b"], _lambda_gate),
    ]
    return {function.name: function for function in made}
