"""Model families: what their config.json says, and which tensors their checkpoints hold."""

from r1trt.families.huggingface import FAMILY_OF_ARCHITECTURE, model_config_from_dict
from r1trt.families.tensors import expected_tensors

__all__ = ["FAMILY_OF_ARCHITECTURE", "expected_tensors", "model_config_from_dict"]
