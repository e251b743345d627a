"""Model families, one file each: what their config.json says, and which tensors their checkpoints hold."""

from r1trt.families.family import Family
from r1trt.families.registry import (
    expected_tensors,
    families,
    family_of,
    is_ignored,
    model_config_from_dict,
)

__all__ = ["Family", "expected_tensors", "families", "family_of", "is_ignored", "model_config_from_dict"]
