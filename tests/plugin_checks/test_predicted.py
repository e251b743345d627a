"""Predicted times: never below what bytes and operations allow, longer for more work, printed by kernel."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from r1trt.estimate.gpus import DEVICES
from r1trt.plugin_checks.bench.attention_rows import DecodeRow, PrefillRow
from r1trt.plugin_checks.bench.latent_rows import LatentDecodeRow
from r1trt.plugin_checks.bench.moe_layer_row import LayerRow
from r1trt.plugin_checks.bench.moe_rows import MoveRow, RouterRow
from r1trt.plugin_checks.bench.moe_shapes import DEEPSEEK_V3, MIXTRAL
from r1trt.plugin_checks.bench.predicted import decode, instructions, prefill
from r1trt.plugin_checks.bench.predicted.kernel_time import makespan
from r1trt.plugin_checks.bench.predicted.machine import H100, H200, Machine
from r1trt.plugin_checks.bench.predicted.products import HopperTile, expected_tiles
from r1trt.plugin_checks.bench.predicted.rope import parts_of_token
from r1trt.plugin_checks.bench.predicted.rows import ROWS, predicted
from r1trt.plugin_checks.bench.roofline import floor_us
from r1trt.plugin_checks.bench.rope_rows import RopeRow
from r1trt.plugin_checks.bench.row_times import Row
from r1trt.plugin_checks.cases.attention_cases import ALL_TO_FIRST, AttentionCase, key_masks

TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384]
GROWING = [
    *(PrefillRow(tokens=64, lam=lam) for lam in ("zeros", "heads", "dense")),
    *(LayerRow(tokens=64, shape=shape, fp8=fp8) for shape, fp8 in ((DEEPSEEK_V3, True), (MIXTRAL, False))),
    RouterRow(tokens=64), MoveRow(tokens=64), MoveRow(tokens=64, combine=True), RopeRow(tokens=64),
    DecodeRow(batch=8, keys=64), DecodeRow(batch=8, keys=64, block_only=True),
    LatentDecodeRow(batch=8, keys=64),
]  # fmt: skip


@pytest.mark.parametrize("machine", [H100, H200], ids=lambda machine: machine.name)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_no_row_is_below_the_floor(row: Row, machine: Machine) -> None:
    device, work = DEVICES[machine.name], row.work
    rate = device.operations["fp8_e4m3" if work.fp8 else "bf16"]
    floor = floor_us(work.operations, work.size, rate, device.bandwidth)
    assert predicted(row, machine).us >= floor


@pytest.mark.parametrize("row", GROWING, ids=lambda row: row.name)
def test_more_tokens_or_keys_take_longer(row: Row) -> None:
    field = "keys" if isinstance(row, DecodeRow | LatentDecodeRow) else "tokens"
    times = [predicted(replace(row, **{field: count}), H200).us for count in TOKENS]
    assert all(before <= after * 1.0001 for before, after in pairwise(times)), times


def test_more_bandwidth_takes_no_longer() -> None:
    for row in ROWS:
        assert predicted(row, H200).us <= predicted(row, H100).us


def test_a_row_without_a_model_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="no model of str"):
        predicted("a row", H200)


def test_a_prediction_is_printed_by_kernel() -> None:
    found = predicted(LayerRow(tokens=128, shape=DEEPSEEK_V3, fp8=True), H200)
    names = [line.partition(":")[0] for line in str(found).splitlines()]
    assert names == [
        "router_logits_many", "router", "router_rows", "permute", "gate_up", "swiglu", "down", "moe_combine",
    ]  # fmt: skip
    assert found.bound == "gate_up: memory"
    assert found.us == pytest.approx(sum(kernel.us for kernel in found.kernels))


def test_the_machine_is_the_data_sheets() -> None:
    assert H100.clock == H200.clock == pytest.approx(1.829e9, rel=1e-3)
    assert H200.bandwidth > H100.bandwidth


@pytest.mark.parametrize(
    ("costs", "slots", "expected"),
    [((), 2, 0), ((3, 5), 2, 5), ((4, 1, 1, 1), 2, 4), ((1, 1, 1, 4), 2, 5), ((2,) * 5, 2, 6)],
)
def test_blocks_take_the_first_free_slot(costs: tuple[float, ...], slots: int, expected: float) -> None:
    assert makespan(costs, slots) == expected


def test_cycles_of_tiles_are_what_the_kernels_say_of_themselves() -> None:
    latent = decode.latent_tile_cycles()  # the comment of hopper_latent.cu
    assert (latent["products"], latent["shared memory"]) == (2176, 2368)
    full = prefill.step_cycles(instructions.FULL_BRANCH)
    assert full["products"] == 2 * 16 * 64  # of each warpgroup 16 wgmma of 64 cycles: 64 x 128 x 16
    tile = HopperTile(rows=64, columns=256, store=0)
    assert tile.cycles(fp8=True)["products"] == tile.cycles(fp8=False)["products"] == 512


@pytest.mark.parametrize(("tokens", "experts", "top_k"), [(7, 8, 2), (300, 64, 6), (50, 4, 4)])
def test_tiles_of_random_routings(tokens: int, experts: int, top_k: int) -> None:
    assert expected_tiles(tokens, experts, top_k, 1) == pytest.approx(tokens * top_k)
    generator = np.random.default_rng(0)
    rows = generator.binomial(tokens, top_k / experts, (4000, experts))
    drawn = (-(-rows // 16)).sum(1).mean()
    assert expected_tiles(tokens, experts, top_k, 16) == pytest.approx(drawn, rel=0.02)


def test_steps_of_the_block_branch_are_the_keys_that_a_tile_sees() -> None:
    """Of 32 tokens and four heads: boxes of 32 first tokens, then boxes of the own block."""
    tokens = 4096
    shape = prefill.Prefill(tokens=tokens, batch=1, heads=8, kv_heads=2, full_heads=0, block_heads=8)
    _, seen = key_masks(AttentionCase(block=32, inter_block=ALL_TO_FIRST), np.arange(tokens), tokens)
    expected = []
    for first in reversed(range(0, tokens, 32)):
        keys = seen[first : first + 32].any(0)
        boxes = -(-int(keys[:first].sum()) // 32) + 1
        expected += [-(-boxes // 4)] * 2
    assert prefill.block_steps(shape) == expected


def test_few_tokens_heads_are_spread_over_blocks() -> None:
    """Of 40 heads of 128, 640 pieces of 16 bytes."""
    assert [parts_of_token(tokens, 40, 128) for tokens in (1, 511, 512, 4096)] == [3, 3, 1, 1]
