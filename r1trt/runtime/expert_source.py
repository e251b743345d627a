"""What an engine's inputs for expert stacks are read from; importing this needs no library to read them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.experts import ExpertStack

StackArrays = Mapping[str, npt.NDArray[Any]]


class ExpertSource(Protocol):
    """The expert stacks of an engine."""

    @property
    def stacks(self) -> Sequence[ExpertStack]:
        """What they are, in the order of the inputs."""
        ...

    def rows(self, stack: ExpertStack) -> Iterator[npt.NDArray[Any]]:
        """Elements of one of them in order, some at a time. Raises CheckpointError where a read fails."""
        ...

    def in_memory(self) -> StackArrays:
        """All of them by name. Raises CheckpointError where a read fails."""
        ...


def expert_source(build: BuildArtifact) -> ExpertSource | None:
    """The expert stacks that a build's engine takes as inputs; None where it takes none.

    Raises:
        CheckpointError: Its shards are not those that it was built from.
    """
    if build.manifest.external_experts is None:
        return None
    # By name: code that is packed with a server follows imports, and packages refuse such engines.
    module = importlib.import_module("r1trt.runtime.expert_stacks")
    source: ExpertSource = module.BoundExperts(build)
    return source


class StackInputs:
    """Expert stacks as ONNX Runtime's inputs, bound by address: NumPy lacks some of their types.

    Args:
        session: The `onnxruntime.InferenceSession`.
        stacks: Its expert stacks by name.

    Raises:
        ValueError: An input has another type or shape.
    """

    def __init__(self, session: Any, stacks: StackArrays) -> None:
        inputs = [value for value in session.get_inputs() if value.name in stacks]
        self._arrays = {value.name: _as_input(value, stacks[value.name]) for value in inputs}

    def bind(self, binding: Any) -> None:
        """Bind all of them."""
        for name, (number, array) in self._arrays.items():
            binding.bind_input(name, "cpu", 0, number, array.shape, array.ctypes.data)


# ONNX's numbers and the bytes of an element, by ONNX Runtime's names.
_TYPES: Mapping[str, tuple[int, int]] = {
    "tensor(float)": (1, 4),
    "tensor(uint8)": (2, 1),
    "tensor(int8)": (3, 1),
    "tensor(float16)": (10, 2),
    "tensor(bfloat16)": (16, 2),
    "tensor(float8e4m3fn)": (17, 1),
}


def _as_input(value: Any, array: npt.NDArray[Any]) -> tuple[int, npt.NDArray[Any]]:
    """FP8 elements may be taken as their bytes; a simulation takes FP32 for BF16."""
    number, size = _TYPES.get(value.type, (0, 0))
    if value.type == "tensor(float)":
        array = array.astype(np.float32, copy=False)
    if size != array.itemsize or tuple(value.shape) != array.shape:
        raise ValueError(
            f"input '{value.name}' is {value.type} {value.shape}, its stack {array.dtype} {array.shape}"
        )
    return number, array
