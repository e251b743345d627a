"""The prediction of a row of the bench."""

from __future__ import annotations

from functools import singledispatch

from r1trt.plugin_checks.bench import attention_rows, latent_rows, moe_rows, rope_rows
from r1trt.plugin_checks.bench.moe_layer_row import LayerRow
from r1trt.plugin_checks.bench.moe_shapes import Shape
from r1trt.plugin_checks.bench.predicted import decode, moe, prefill
from r1trt.plugin_checks.bench.predicted.kernel_time import Prediction
from r1trt.plugin_checks.bench.predicted.machine import Machine
from r1trt.plugin_checks.bench.predicted.rope import rope
from r1trt.plugin_checks.bench.row_times import Row

ROWS: list[Row] = [*attention_rows.ROWS, *latent_rows.ROWS, *moe_rows.ROWS, *rope_rows.ROWS]


@singledispatch
def predicted(row: object, machine: Machine) -> Prediction:
    """A row's time on a machine.

    Args:
        row: One of `ROWS`' kinds.
        machine: A Hopper.

    Raises:
        NotImplementedError: There is no model of such a row.
    """
    raise NotImplementedError(f"no model of {type(row).__name__}; register one in {__name__}")


@predicted.register
def _(row: attention_rows.PrefillRow, machine: Machine) -> Prediction:
    full, block = {
        "zeros": (0, row.heads),
        "heads": (row.dense_heads, row.heads - row.dense_heads),
        "dense": (row.heads, row.heads),
    }[row.lam]
    shape = prefill.Prefill(
        tokens=row.tokens, batch=row.batch, heads=row.heads, kv_heads=row.kv_heads, full_heads=full,
        block_heads=block,
    )  # fmt: skip
    return prefill.prefill(machine, shape)


@predicted.register
def _(row: attention_rows.DecodeRow, machine: Machine) -> Prediction:
    shape = decode.Decode(
        batch=row.batch, keys=row.keys, heads=row.heads, kv_heads=row.kv_heads, block_only=row.block_only
    )
    return decode.decode(machine, shape)


@predicted.register
def _(row: latent_rows.LatentDecodeRow, machine: Machine) -> Prediction:
    shape = decode.Decode(batch=row.batch, keys=row.keys, heads=row.heads, kv_heads=1)
    return decode.latent_decode(machine, shape)


def _experts(shape: Shape, tokens: int, *, fp8: bool = False, hot: bool = False) -> moe.Experts:
    return moe.Experts(
        tokens=tokens, experts=shape.experts, top_k=shape.routing["top_k"], hidden=shape.hidden,
        width=shape.width, fp8=fp8, hot=hot,
    )  # fmt: skip


@predicted.register
def _(row: LayerRow, machine: Machine) -> Prediction:
    return moe.layer(machine, _experts(row.shape, row.tokens, fp8=row.fp8))


@predicted.register
def _(row: moe_rows.RouterRow, machine: Machine) -> Prediction:
    return moe.router(machine, _experts(row.shape, row.tokens, hot=row.hot))


@predicted.register
def _(row: moe_rows.MoveRow, machine: Machine) -> Prediction:
    return moe.move_row(machine, _experts(row.shape, row.tokens), combine=row.combine)


@predicted.register
def _(row: rope_rows.RopeRow, machine: Machine) -> Prediction:
    return rope(
        machine, tokens=row.tokens, heads=rope_rows.HEADS, kv_heads=rope_rows.KV_HEADS,
        head_dim=rope_rows.HEAD_DIM, hot=row.hot,
    )  # fmt: skip
