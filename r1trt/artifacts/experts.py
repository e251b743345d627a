"""Expert stacks that an engine takes as inputs: which tensors of which shard each of them is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from r1trt.artifacts.fields import Check, Count, PathText, RelativePath, Size

DataTypeName = Literal["fp32", "bf16", "fp16", "fp8_e4m3", "int8"]
_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8_e4m3": 1, "int8": 1}
_Positive = Annotated[float, Check(expected="a positive number", holds=lambda scale: scale > 0)]


@dataclass(frozen=True, kw_only=True)
class ShardTensor:
    """Neighbouring elements of a tensor of the checkpoint.

    Attributes:
        file: Path of its shard, below the weights' base directory.
        tensor: Its name there.
        dtype: Its type, as safetensors calls it.
        shape: Shape of the whole tensor.
        first: The first element that is taken.
        count: How many are.
    """

    file: RelativePath
    tensor: str
    dtype: str
    shape: tuple[Size, ...]
    first: Size = 0
    count: Size

    def __post_init__(self) -> None:
        """Raises ValueError where elements are not the tensor's."""
        if self.first + self.count > math.prod(self.shape):
            raise ValueError(f"elements {self.first} to {self.first + self.count} of {list(self.shape)}")


@dataclass(frozen=True, kw_only=True)
class StackPart:
    """Rows of a stack.

    Attributes:
        values: Where they are stored.
        block_scales: Scales of blocks of 128 x 128 that multiply them while they are loaded; None where none
            do.
        columns: Elements of a row, where there are block scales.
        first_row: Row of the block scales' whole weight that `values` begin at.
    """

    values: ShardTensor
    block_scales: ShardTensor | None = None
    columns: Size = 0
    first_row: Size = 0


@dataclass(frozen=True, kw_only=True)
class ExpertStack:
    """One input of an engine that holds expert weights, or the block scales of some.

    Attributes:
        name: The input's name.
        data_type: Type of its elements, by its name in precision plans.
        shape: Its shape.
        parts: What it is made of: their elements, one part after the other.
        scale: Of weights that are quantized while they are loaded: one number, or one for each index of
            axis 0.
        layout: "rows" as the parts have them; "alternating": of each matrix, the first row of the upper
            half, the first of the lower one, the second of the upper one, and so on; "scales": block
            scales, which are checked to be positive.
    """

    name: str
    data_type: DataTypeName
    shape: tuple[Count, ...]
    parts: tuple[StackPart, ...]
    scale: tuple[_Positive, ...] | None = None
    layout: Literal["rows", "alternating", "scales"] = "rows"

    @property
    def bytes(self) -> int:
        """Size of the input."""
        return math.prod(self.shape) * _ELEMENT_BYTES[self.data_type]

    @property
    def tensors(self) -> tuple[ShardTensor, ...]:
        """Everything that is read for it."""
        scales = (part.block_scales for part in self.parts)
        return (*(part.values for part in self.parts), *(scale for scale in scales if scale is not None))


@dataclass(frozen=True, kw_only=True)
class ExternalExperts:
    """The inputs of an engine that hold its experts.

    Attributes:
        base_directory: Absolute path of the directory that the shards' names are relative to.
        stacks: In the order of the graph's inputs.
    """

    base_directory: PathText
    stacks: tuple[ExpertStack, ...]

    @property
    def bytes(self) -> int:
        """Size of all of them in memory."""
        return sum(stack.bytes for stack in self.stacks)
