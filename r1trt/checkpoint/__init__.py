"""Checkpoints in Hugging Face's layout: config, safetensors headers, and index."""

from r1trt.checkpoint.checkpoint import Checkpoint, checkpoint_from_dir
from r1trt.checkpoint.safetensors_header import SafetensorsHeader, TensorRef, read_safetensors_header

__all__ = [
    "Checkpoint",
    "SafetensorsHeader",
    "TensorRef",
    "checkpoint_from_dir",
    "read_safetensors_header",
]
