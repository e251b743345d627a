"""Whether an engine takes its experts as inputs."""

from __future__ import annotations

from r1trt.arch import Backend
from r1trt.build.config import BuildConfig
from r1trt.errors import UsageError
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.steps import BUILDER_SHARE
from r1trt.machine import memory_of_machine


def takes_external_experts(config: BuildConfig, planned: PlannedModel, backend: Backend) -> bool:
    """Whether expert stacks are inputs: as asked for, or where a builder has not the memory for constants.

    Args:
        config: The options.
        planned: The model in the types of its plan.
        backend: Builder. ONNX Runtime maps constants from a file, and needs no memory of its own for them.

    Raises:
        UsageError: The model has no experts, and they are asked for as inputs.
    """
    if config.external_experts and not planned.expert_bytes:
        raise UsageError("--external-experts is for mixtures of experts: this model has none.")
    if config.external_experts is not None:
        return config.external_experts
    exceeds = BUILDER_SHARE * planned.bytes > memory_of_machine().total
    return backend != "onnxruntime" and planned.expert_bytes > 0 and exceeds
