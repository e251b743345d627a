"""Bodies of what TensorRT-RTX builds without a plugin: no Loop, If, NonZero or scatter reduction.

They are generic in the activation type: the same bodies, typed FLOAT, run in ONNX Runtime.
"""

from r1trt.lowerings.tensorrt_rtx.attention import attention_function
from r1trt.lowerings.tensorrt_rtx.moe import moe_function
from r1trt.lowerings.tensorrt_rtx.rope import rope_function

__all__ = ["attention_function", "moe_function", "rope_function"]
