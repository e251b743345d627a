"""Whether engines take their experts as inputs."""

from __future__ import annotations

from collections.abc import Sequence

from r1trt.arch import Backend
from r1trt.build.config import BuildConfig
from r1trt.errors import UsageError
from r1trt.estimate.steps import BUILDER_SHARE
from r1trt.machine import memory_of_machine


def takes_external_experts(
    config: BuildConfig, backend: Backend, weights: Sequence[int], experts: int
) -> bool:
    """Whether expert stacks are inputs: as asked for, or where a builder has not the memory for constants.

    Args:
        config: The options.
        backend: Builder. ONNX Runtime maps constants from a file, and needs no memory of its own for them.
        weights: Bytes of the typed weights of each part.
        experts: Bytes of the routed experts among them.

    Raises:
        UsageError: The model has no experts, and they are asked for as inputs.
    """
    if config.external_experts and not experts:
        raise UsageError("--external-experts is for mixtures of experts: this model has none.")
    if config.external_experts is not None:
        return config.external_experts
    exceeds = BUILDER_SHARE * max(weights) > memory_of_machine().total
    return backend != "onnxruntime" and experts > 0 and exceeds
