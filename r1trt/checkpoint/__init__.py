"""Checkpoints in Hugging Face's layout: config, safetensors headers, index, and weights on demand."""

from r1trt.checkpoint.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, TensorRef, read_safetensors_header
from r1trt.checkpoint.weights import find_nonfinite, read_tensor

__all__ = [
    "Checkpoint",
    "SafetensorsHeader",
    "TensorRef",
    "checkpoint_from_dir",
    "find_nonfinite",
    "read_safetensors_header",
    "read_tensor",
]
