"""Stage `time`: our kernels and their peers on one GPU, in turn, against floors and aims."""

from __future__ import annotations

import gc
import importlib.util
from dataclasses import asdict, dataclass, replace
from itertools import chain, zip_longest
from typing import Any

from r1trt.plugin_checks.bench.aims import OURS, judged, ratios
from r1trt.plugin_checks.bench.roofline import data_sheet, floor_us
from r1trt.plugin_checks.build import Built
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.device_kernels import DeviceKernels

ROW_S = 45  # a row takes about so long while its peers compile
LARGEST_DISAGREEMENT = 0.1  # of the norm; a token that is routed otherwise is some hundredths
COPY_BYTES = 1 << 31
SQUARE = 8192
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
    for row in _rows(quick=context.quick):
        if row.name in names:
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
    for row in small_rows():
        entry: dict[str, Any] = {"name": row.name, "work": asdict(row.work), "left_out": {}}
        prepared, same = _prepared(row, library, entry["left_out"], "cpu")
        entry["disagreement"] = _disagreements(prepared, same)
        if wrong := _wrong(entry["disagreement"]):
            entry["why"] = wrong
        rows.append(entry)
        context.log(f"{'FAILED' if wrong else 'agree':>7}  {row.name}: {entry['disagreement']}")
    failures = [{"name": row["name"], "why": row["why"]} for row in rows if "why" in row]
    return {"finished": True, "skipped": HOST_REASON, "rows": [], "called_once": rows, "failures": failures}


def small_rows() -> list[Any]:
    """A row of each kind, small enough for kernels on the CPU."""
    from r1trt.plugin_checks.bench.attention_rows import DecodeRow, PrefillRow
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
        RouterRow(tokens=5, shape=grouped),
        MoveRow(tokens=5, shape=grouped),
        MoveRow(tokens=5, shape=grouped, combine=True),
        LayerRow(tokens=9, shape=few, fp8=False),
        LayerRow(tokens=9, shape=grouped, fp8=True),
        RopeRow(tokens=3),
        RopeRow(tokens=2100, temperature=True),
    ]


def _rows(*, quick: bool) -> list[Any]:
    """Rows of all kinds in turn, the ones that matter most first."""
    from r1trt.plugin_checks.bench import attention_rows, moe_rows, rope_rows

    kinds: list[list[Any]] = [attention_rows.ROWS, moe_rows.ROWS, rope_rows.ROWS]
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


def ceilings(name: str) -> dict[str, Any]:
    """What the data sheet says, and what a copy and large products reach here."""
    import torch

    from r1trt.plugin_checks.bench.timing import Prepared, timed

    sheet = data_sheet(name)
    source = torch.randint(0, 256, (COPY_BYTES,), dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    units = [tensor.to(torch.float8_e4m3fn) for tensor in (a, b)]
    one = torch.ones((), device="cuda")
    calls = {
        "copy": lambda: target.copy_(source),
        "bf16": lambda: a @ b,
        "fp8": lambda: torch._scaled_mm(units[0], units[1].t(), one, one, out_dtype=torch.bfloat16),
    }
    found: dict[str, Any] = {"data_sheet": asdict(sheet) if sheet else None, "left_out": {}}
    for key, call in calls.items():
        try:
            us = timed([Prepared(key, call, hot=False)], hot=False)[key]["us"]
        except RuntimeError as error:
            found["left_out"][key] = str(error).splitlines()[0]
            continue
        found[key] = (2 * COPY_BYTES if key == "copy" else 2 * SQUARE**3) / us * 1e6
    return found


def row_entry(row: Any, library: DeviceKernels, limits: dict[str, Any]) -> dict[str, Any]:
    """Prepares a row's contenders, times them, and judges."""
    from r1trt.plugin_checks.bench.timing import timed

    entry: dict[str, Any] = {"name": row.name, "work": asdict(row.work), "left_out": {}}
    try:
        prepared, same = _prepared(row, library, entry["left_out"], "cuda")
        entry["times"] = timed(prepared, hot=row.hot) if prepared else {}
        entry["disagreement"] = _disagreements(prepared, same)
    except Exception as error:  # a row that cannot be run must not end the others
        entry |= {"why": f"{type(error).__name__}: {error}", "times": {}}
    finally:
        prepared = []
        gc.collect()
        _empty_cache()
    finish(entry, row, limits)
    return entry


@dataclass(frozen=True)
class _Called:
    """A contender that was called once."""

    name: str
    output: Any


def _prepared(
    row: Any, library: DeviceKernels, left_out: dict[str, str], device: str
) -> tuple[list[Any], set[str]]:
    from r1trt.plugin_checks.bench.timing import Prepared

    prepared: list[Any] = []
    same = set()
    for contender in row.contenders(library, device):
        try:
            call = contender.make()
            if device == "cpu":
                prepared.append(_Called(contender.name, call()))
            else:
                prepared.append(Prepared(contender.name, call, hot=row.hot))
        except Exception as error:  # whatever a stranger's operator raises
            left_out[contender.name] = f"{type(error).__name__}: {str(error)[:600]}"
            continue
        if contender.same:
            same.add(contender.name)
    return prepared, same


def _disagreements(prepared: list[Any], same: set[str]) -> dict[str, float | None]:
    """How far the outputs of those that compute the same are from ours; None for what is not a number."""
    from r1trt.plugin_checks.bench.timing import disagreement

    ours = next((item.output for item in prepared if item.name == OURS), None)
    if ours is None or OURS not in same:
        return {}
    found = {item.name: disagreement(ours, item.output) for item in prepared if item.name in same - {OURS}}
    found[f"{OURS}, again"] = disagreement(ours, ours.clone())  # not a number where an output is not
    return {name: value if value == value else None for name, value in found.items()}


def _empty_cache() -> None:
    import torch

    try:
        torch.cuda.empty_cache()
    except RuntimeError:
        return  # a lost context; `run` finds it out


def finish(entry: dict[str, Any], row: Any, limits: dict[str, Any]) -> None:
    """Adds ratios, floors, and what came of the aims; and why the row failed, if it did."""
    times = {name: item["us"] for name, item in entry["times"].items()}
    if hasattr(row, "derived"):
        for name, (us, how) in row.derived(times).items():
            times[name] = us
            entry["times"][name] = {"us": round(us, 3), "derived": how}
    entry["ratios"] = {name: round(value, 3) for name, value in ratios(times).items()}
    entry["floor_us"] = floors(row.work, limits)
    if OURS in times:
        entry["floor_over_ours"] = {name: us / times[OURS] for name, us in entry["floor_us"].items()}
    sheet = limits["data_sheet"]
    peaks = {"data_sheet": sheet["bandwidth"] if sheet else None, "copy": limits.get("copy")}
    entry["aims"] = [judged(aim, times, row.work, peaks) for aim in row.aims]
    if "why" in entry:
        return
    if wrong := _wrong(entry.get("disagreement", {})):
        entry["why"] = wrong
    elif OURS not in times:
        entry["why"] = f"{OURS} did not run: {entry['left_out']}"


def _wrong(disagreements: dict[str, float | None]) -> str:
    """What is wrong with outputs; nothing if they agree."""
    far = {
        name: value for name, value in disagreements.items() if value is None or value > LARGEST_DISAGREEMENT
    }
    return f"outputs differ: {far}" if far else ""


def floors(work: Any, limits: dict[str, Any]) -> dict[str, float]:
    """Microseconds by the data sheet's rates and by those measured here, where they are known."""
    found = {}
    kind = "fp8" if work.fp8 else "bf16"
    if limits["data_sheet"]:
        sheet = limits["data_sheet"]
        found["data_sheet"] = round(floor_us(work.operations, work.size, sheet[kind], sheet["bandwidth"]), 3)
    if "copy" in limits and kind in limits:
        found["measured"] = round(floor_us(work.operations, work.size, limits[kind], limits["copy"]), 3)
    return found


def describe(entry: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "why" in entry:
        return f"FAILED  {entry['name']}: {entry['why']}"
    ratios_text = ", ".join(f"{name} {value:.2f}x" for name, value in entry["ratios"].items())
    return f"{entry['times'][OURS]['us']:9.2f} us  {entry['name']}: {ratios_text or 'no peer'}"
