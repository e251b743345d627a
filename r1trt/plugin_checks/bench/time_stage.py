"""Stage `time`: our kernels and their peers on one GPU, in turn, against floors and aims."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict, replace
from itertools import chain, zip_longest
from typing import Any

from r1trt.plugin_checks.bench.row_times import (
    Row,
    ceilings,
    describe,
    difference_fault,
    disagreements,
    prepared_contenders,
    row_entry,
)
from r1trt.plugin_checks.build import Built
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.device_kernels import DeviceKernels

ROW_S = 45  # a row takes about so long while its peers compile
QUICK_ROWS = 3
HOST_REASON = "kernels on the CPU: their times say nothing"


def run(context: Context, built: Built, previous: Result | None) -> Result:
    """Times the rows that no earlier run has.

    Returns:
        A result with `ceilings` and `rows`; or `skipped`, the reason why there are none.
    """
    if why := _unable(context):
        return {"finished": True, "skipped": why, "rows": [], "failures": []}
    import torch

    torch.manual_seed(context.seed)
    if not context.on_gpu:
        return called_once(DeviceKernels(built.kernels, on_gpu=False), context)
    result: Result = {"finished": False, "rows": [], "failures": [], **(previous or {})}
    if "ceilings" not in result:
        result["ceilings"] = ceilings(torch.cuda.get_device_name(0))
    library = DeviceKernels(built.kernels, on_gpu=True)
    names = {row["name"] for row in result["rows"]}
    for name, row in context.selected([(row.name, row) for row in _rows(quick=context.quick)]):
        if name in names:
            continue
        if context.budget.left < ROW_S:
            return result
        entry = row_entry(row, library, result["ceilings"])
        result["rows"].append(entry)
        result["failures"] = [{"name": r["name"], "why": r["why"]} for r in result["rows"] if "why" in r]
        context.save(result)
        context.log(describe(entry))
        if not _gpu_answers():
            context.log("the GPU's context is lost; run again to go on after this row")
            return result
    return {**result, "finished": True}


def _unable(context: Context) -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "torch is not there"
    import torch

    if not context.on_gpu:
        return None
    return None if torch.cuda.is_available() else f"torch {torch.__version__} finds no GPU"


def called_once(library: DeviceKernels, context: Context) -> Result:
    """Calls small rows' contenders on the CPU and compares their outputs; their times would say nothing."""
    rows = []
    for _, row in context.selected([(row.name, row) for row in small_rows()]):
        entry: dict[str, Any] = {"name": row.name, "work": asdict(row.work), "left_out": {}}
        prepared, same = prepared_contenders(row, library, entry["left_out"], "cpu")
        entry["disagreement"] = disagreements(prepared, same)
        if wrong := difference_fault(entry["disagreement"]):
            entry["why"] = wrong
        rows.append(entry)
        context.log(f"{'FAILED' if wrong else 'agree':>7}  {row.name}: {entry['disagreement']}")
    failures = [{"name": row["name"], "why": row["why"]} for row in rows if "why" in row]
    return {"finished": True, "skipped": HOST_REASON, "rows": [], "called_once": rows, "failures": failures}


def small_rows() -> list[Row]:
    """A row of each kind, small enough for kernels on the CPU."""
    from r1trt.plugin_checks.bench.attention_rows import DecodeRow, PrefillRow
    from r1trt.plugin_checks.bench.latent_rows import LatentDecodeRow
    from r1trt.plugin_checks.bench.moe_layer_row import LayerRow
    from r1trt.plugin_checks.bench.moe_rows import MoveRow, RouterRow
    from r1trt.plugin_checks.bench.moe_shapes import MIXTRAL, V3_ROUTING
    from r1trt.plugin_checks.bench.rope_rows import RopeRow

    few = replace(MIXTRAL, name="8 experts, top 2, 128/128", hidden=128, width=128)
    grouped = replace(few, name="32 experts, top 8, 128/128", experts=32, routing=V3_ROUTING)
    return [
        PrefillRow(tokens=96, heads=4, kv_heads=2),
        PrefillRow(tokens=64, heads=4, kv_heads=2, batch=2),
        DecodeRow(batch=2, keys=70, heads=4, kv_heads=2),
        DecodeRow(batch=1, keys=70, heads=4, kv_heads=2, block_only=True),
        LatentDecodeRow(batch=2, keys=64, heads=4),
        RouterRow(tokens=5, shape=grouped),
        MoveRow(tokens=5, shape=grouped),
        MoveRow(tokens=5, shape=grouped, combine=True),
        LayerRow(tokens=9, shape=few, fp8=False),
        LayerRow(tokens=9, shape=grouped, fp8=True),
        RopeRow(tokens=3),
        RopeRow(tokens=2100, temperature=True),
    ]


def _rows(*, quick: bool) -> list[Row]:
    """Rows of all kinds in turn, the ones that matter most first."""
    from r1trt.plugin_checks.bench import attention_rows, latent_rows, moe_rows, rope_rows

    kinds = [attention_rows.ROWS, moe_rows.ROWS, rope_rows.ROWS, latent_rows.ROWS]
    if quick:
        kinds = [rows[:QUICK_ROWS] for rows in kinds]
    return [row for row in chain.from_iterable(zip_longest(*kinds)) if row is not None]


def _gpu_answers() -> bool:
    import torch

    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
