"""Our kernels on torch's tensors and streams."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from r1trt.plugin_checks.bench.peers import PeerMissing
from r1trt.plugin_checks.bench.timing import Call
from r1trt.plugin_checks.device_kernels import DeviceKernels

# Stages of `moe_stages.cu`.
LOGITS, ROUTER, PERMUTE, COMBINE = range(4)


def compiled(function: Callable[..., Any], device: Any) -> Callable[..., Any]:
    """The function by torch.compile; on the CPU, where nothing is timed, as it is."""
    return function if torch.device(device).type == "cpu" else torch.compile(function, dynamic=False)


def current_stream(tensor: Tensor) -> int:
    """Torch's stream; on the CPU there is none."""
    return int(torch.cuda.current_stream().cuda_stream) if tensor.is_cuda else 0


def with_workspace(library: DeviceKernels, params: Any, device: Any) -> Tensor:
    """Gives the parameters a workspace, if they have one; it has to be kept."""
    if not hasattr(params, "workspace"):
        return torch.empty(0, device=device)
    workspace = torch.randint(0, 256, (library.workspace_size(params),), dtype=torch.uint8, device=device)
    params.workspace, params.workspace_size = workspace.data_ptr(), workspace.numel()
    return workspace


def launch(library: DeviceKernels, params: Any, y: Tensor, *tensors: Tensor) -> Call:
    """A call on the current stream, in a workspace of its own.

    Args:
        library: The kernels.
        params: The call.
        y: What it returns.
        tensors: What the parameters point to, to be kept.
    """
    kept = (with_workspace(library, params, y.device), *tensors)

    def call(_kept: tuple[Tensor, ...] = kept) -> Tensor:
        library.enqueue(params, current_stream(y))
        return y

    return call


def moe_stage(library: DeviceKernels, params: Any, stage: int, *tensors: Tensor) -> Call:
    """A call of one stage of the mixture of experts, in the workspace that the parameters have.

    Raises:
        PeerMissing: The library was built without the stages.
    """
    if not hasattr(library.library, "r1trt_moe_stage"):
        raise PeerMissing(
            "the library was built without single stages; see `stages_left_out` of the stage `build`"
        )
    function = library.library.r1trt_moe_stage

    def call() -> None:
        stream = ctypes.c_void_p(current_stream(tensors[0]))
        if status := int(function(ctypes.byref(params), stage, stream)):
            raise RuntimeError(f"stage {stage}: cudaError {status}")

    return call
