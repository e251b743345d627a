"""The exported graph's small layers as model-local functions: one node for each layer of a plan."""

from __future__ import annotations

from r1trt.ops.embedding import EMBEDDING as _EMBEDDING
from r1trt.ops.lambda_gate import LAMBDA_GATE as _LAMBDA_GATE
from r1trt.ops.linear import LINEAR as _LINEAR
from r1trt.ops.linear import LINEAR_BIAS as _LINEAR_BIAS
from r1trt.ops.registry import layer_functions as layer_functions
from r1trt.ops.rms_norm import RMS_NORM as _RMS_NORM
from r1trt.ops.swiglu import SWIGLU as _SWIGLU

EMBEDDING, RMS_NORM, SWIGLU = _EMBEDDING.name, _RMS_NORM.name, _SWIGLU.name
LINEAR, LINEAR_BIAS, LAMBDA_GATE = _LINEAR.name, _LINEAR_BIAS.name, _LAMBDA_GATE.name
