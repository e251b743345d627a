"""r1trt: DeepSeek-R1-style checkpoints to TensorRT engines, through ONNX."""

__version__ = "0.1.0"
