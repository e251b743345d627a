"""Nodes that ONNX Runtime computes with weights in blocks: a product, and rows by their numbers.

Both read one pair of tensors, so that a head and the embedding that it is tied to share them.
Legend: N rows, K columns, G blocks of a row (the last one padded), b block size.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.graph.block_codes import BITS, MATMUL_NBITS, block_tensors, product_attributes
from r1trt.graph.edit import FLOAT, Emitter, dims_of, register, static_dims
from r1trt.graph.weight_grid import Grid
from r1trt.graph.weights import weight_source_from_value

_ZERO = np.float32(1 << (BITS["int8"] - 1))


def block_weight(
    graph: ir.Graph,
    weight: ir.Value,
    grid: Grid,
    block_scales: ir.Value | None = None,
    *,
    alternates: bool = False,
) -> tuple[ir.Value, ir.Value]:
    """Codes and scales of a weight in INT8 or INT4 blocks as initializers, made once for all that read them.

    `block_scales` are those of the checkpoint's own FP8, as in `weight_source_from_value`; layouts, and
    `alternates`, as in `r1trt.graph.block_codes.block_tensors`.
    """
    source = weight_source_from_value(weight, block_scales)
    codes, scales = block_tensors(source, grid, source.name, alternates=alternates)
    return register(graph, codes), register(graph, scales)


def block_product(
    emit: Emitter, x: ir.Value, weight: ir.Value, grid: Grid, bias: ir.Value | None, rounds_input: bool
) -> ir.Value:
    """The product of x [...,K] with a weight [N,K] in blocks, plus a bias [N]: com.microsoft.MatMulNBits.

    `rounds_input`: activations become INT8 as they come, in the same blocks (accuracy_level 4).
    """
    rows, columns = static_dims(weight)
    inputs = [x, *block_weight(emit.graph, weight, grid), None, None, bias]
    attributes = product_attributes(
        rows, columns, bits=BITS[grid.code], block_size=grid.block_size, rounds_input=rounds_input
    )
    inputs = inputs if bias is not None else inputs[:3]
    return emit.contrib_node(MATMUL_NBITS, "MatMul", inputs, [(*dims_of(x)[:-1], rows)], attributes)[0]


def block_rows(emit: Emitter, table: ir.Value, ids: ir.Value, grid: Grid) -> ir.Value:
    """FLOAT rows [...,K] of a table [N,K] in INT8 blocks, by their numbers INT64 [...]."""
    # NOTES: ONNX Runtime's GatherBlockQuantized takes codes [N,G,b] only with scales [N,G,1], and
    # MatMulNBits only with [N,G]: with it a tied head could not read the same tensors.
    codes, scales = block_weight(emit.graph, table, grid)
    lead, (_, blocks, size) = dims_of(ids), static_dims(codes)
    by_block, columns = (*lead, blocks, size), static_dims(table)[1]
    found = emit.node("Gather", "GatherCodes", [codes, ids], ir.DataType.UINT8, by_block, {"axis": 0})
    steps = emit.node("Gather", "GatherScales", [scales, ids], FLOAT, (*lead, blocks), {"axis": 0})
    last = emit.constant("last_axis", np.array([-1], np.int64))
    steps = emit.node("Unsqueeze", "ScaleOfBlock", [steps, last], FLOAT, (*lead, blocks, 1))
    found, zero = emit.cast(found, FLOAT, "CastCodes"), emit.constant("zero_code", np.asarray(_ZERO))
    found = emit.node("Sub", "SignCodes", [found, zero], FLOAT, by_block)
    values = emit.node("Mul", "ScaleCodes", [found, steps], FLOAT, by_block)
    shape = emit.constant("shape", np.array([0] * len(lead) + [-1], np.int64))
    rows = emit.node("Reshape", "JoinBlocks", [values, shape], FLOAT, (*lead, blocks * size))
    if blocks * size == columns:
        return rows
    first, stop = (
        emit.constant(name, np.array([at], np.int64)) for name, at in (("first", 0), ("stop", columns))
    )
    return emit.node("Slice", "CutPadding", [rows, first, stop, last], FLOAT, (*lead, columns))
