"""Kinds of choices: what a layer's operands could be, where the builder is known to execute it.

The table of `r1trt.precision.capabilities` decides: a form that falls back to wider products, or whose weight
is widened in memory at every call, costs accuracy and gains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from r1trt.arch import LIBRARIES, Architecture
from r1trt.build.versions import versions_of_build
from r1trt.errors import PlanError
from r1trt.ops.layer_precision import FP8, INT4, INT8, Precision
from r1trt.precision.capabilities import Capabilities, capabilities_of
from r1trt.precision.rules import BLOCK_SIZE


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way of narrowing a product.

    Attributes:
        name: What tables call it.
        form: The form of the capability table that it is built as.
        type: Type of the weights, and of the activations where those are quantized.
        quantizes_input: Whether activations are quantized too, with one static scale; otherwise they stay in
            BF16, and the weights widen inside the product: decoding reads half, and multiplies no faster.
        by_row: Whether a row of a weight has a scale of its own.
        block_size: Neighbours along a row that share a scale; None for no blocks.
    """

    name: str
    form: str
    type: Precision
    quantizes_input: bool
    by_row: bool
    block_size: int | None = None


FP8_WEIGHTS = Kind(name="fp8 weights", form="fp8_weight", type=FP8, quantizes_input=False, by_row=False)
INT8_WEIGHTS = Kind(
    name="int8 weights", form="int8_weight_rows", type=INT8, quantizes_input=False, by_row=True
)
FP8_ROW = Kind(name="fp8 by row", form="fp8_rows", type=FP8, quantizes_input=True, by_row=True)
FP8_TENSOR = Kind(name="fp8", form="fp8", type=FP8, quantizes_input=True, by_row=False)
INT8_ROW = Kind(name="int8 by row", form="int8_rows", type=INT8, quantizes_input=True, by_row=True)
INT8_TENSOR = Kind(name="int8", form="int8", type=INT8, quantizes_input=True, by_row=False)

INT8_BLOCKS, INT4_BLOCKS = (
    Kind(name=kind, form="MatMulNBits", type=kind, quantizes_input=True, by_row=False, block_size=BLOCK_SIZE)
    for kind in (INT8, INT4)
)

# INT8 steps evenly, and one scale a row keeps weights closer than FP8's three bits do; activations with
# outliers want FP8, which is as fast where there is any.
_OF_FP8: Sequence[Kind] = (INT8_WEIGHTS, FP8_ROW, FP8_TENSOR)
_OF_INT8: Sequence[Kind] = (INT8_WEIGHTS, INT8_ROW, INT8_TENSOR)
_UNASKED: Sequence[Kind] = (FP8_WEIGHTS, FP8_ROW, FP8_TENSOR)
"""Where the builder could not be asked: what NVIDIA documents of it."""


def kinds_for_arch(target: Architecture) -> tuple[Kind, ...]:
    """What a search may choose from beside the widest types, the most accurate first and the cheapest last.

    Raises:
        PlanError: The builder executes nothing narrower than BF16.
    """
    if target.backend == "onnxruntime":
        return INT8_BLOCKS, INT4_BLOCKS
    if not target.offline_sms:
        return tuple(_UNASKED)
    tables = [capabilities_of(installed_version(), sm) for sm in target.offline_sms]
    wanted = _OF_FP8 if target.fp8 else _OF_INT8
    kinds = tuple(kind for kind in wanted if all(_is_real(table, kind) for table in tables))
    if not kinds:
        raise PlanError(
            f"There is nothing to choose from for --arch {target.name}.",
            found=f"{tables[0].builder} {tables[0].version} executes none of "
            + ", ".join(kind.form for kind in wanted),
        )
    return kinds


def _is_real(table: Capabilities, kind: Kind) -> bool:
    """Executed as asked, and the weight never whole in a wider type."""
    return table.executes(kind.form) and table[kind.form].dequantized != "before"


def installed_version() -> str:
    """Version of the installed TensorRT-RTX; empty without one."""
    return versions_of_build("tensorrt-rtx").get(LIBRARIES["tensorrt-rtx"].package, "")
