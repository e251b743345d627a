"""A row's times: its contenders prepared, timed in turn, compared, and judged against floors and aims."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from r1trt.plugin_checks.bench.aims import OURS, Aim, Work, judged, ratios
from r1trt.plugin_checks.bench.roofline import data_sheet, floor_us
from r1trt.plugin_checks.device_kernels import DeviceKernels

if TYPE_CHECKING:
    from r1trt.plugin_checks.bench.timing import Contender

LARGEST_DISAGREEMENT = 0.1  # of the norm; a token that is routed otherwise is some hundredths
COPY_BYTES = 1 << 31
SQUARE = 8192


class Row(Protocol):
    """A line of the table: the same work, done in several ways."""

    @property
    def name(self) -> str:
        """As the receipt has it."""

    @property
    def hot(self) -> bool:
        """Whether the cache is left as it is between calls."""

    @property
    def work(self) -> Work:
        """Operations and bytes."""

    @property
    def aims(self) -> tuple[Aim, ...]:
        """What it is meant to reach."""

    def contenders(self, library: DeviceKernels, device: str) -> list[Contender]:
        """Ours first."""


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
    # In a graph a copy may be the copy engine's, which a kernel that reads and writes outruns.
    words = [tensor.view(torch.int32) for tensor in (source, target)]
    calls = {
        "copy": lambda: target.copy_(source),
        "kernel": lambda: torch.bitwise_not(words[0], out=words[1]),
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
        found[key] = (2 * COPY_BYTES if key in ("copy", "kernel") else 2 * SQUARE**3) / us * 1e6
    if copies := [found.pop(key) for key in ("copy", "kernel") if key in found]:
        found["copy"] = max(copies)
    return found


def row_entry(row: Row, library: DeviceKernels, limits: dict[str, Any]) -> dict[str, Any]:
    """Prepares a row's contenders, times them, and judges."""
    from r1trt.plugin_checks.bench.timing import timed

    entry: dict[str, Any] = {"name": row.name, "work": asdict(row.work), "left_out": {}}
    try:
        prepared, same = prepared_contenders(row, library, entry["left_out"], "cuda")
        entry["times"] = timed(prepared, hot=row.hot) if prepared else {}
        entry["disagreement"] = disagreements(prepared, same)
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


def prepared_contenders(
    row: Row, library: DeviceKernels, left_out: dict[str, str], device: str
) -> tuple[list[Any], set[str]]:
    """Contenders that run, and the names of those whose output is the row's.

    Args:
        row: The row.
        library: Our kernels.
        left_out: Gets the reason for each contender that does not run.
        device: `cuda`, or `cpu` to call each once.
    """
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


def disagreements(prepared: list[Any], same: set[str]) -> dict[str, float | None]:
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


def finish(entry: dict[str, Any], row: Row, limits: dict[str, Any]) -> None:
    """Adds ratios, floors, and what came of the aims; and why the row failed, if it did."""
    times = {name: item["us"] for name, item in entry["times"].items()}
    # What is not a call of its own follows from others' times.
    derived: dict[str, tuple[float, str]] = getattr(row, "derived", lambda times: {})(times)
    for name, (us, how) in derived.items():
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
    if wrong := difference_fault(entry.get("disagreement", {})):
        entry["why"] = wrong
    elif OURS not in times:
        entry["why"] = f"{OURS} did not run: {entry['left_out']}"


def difference_fault(found: dict[str, float | None]) -> str:
    """What is wrong with outputs; nothing if they agree."""
    far = {name: value for name, value in found.items() if value is None or value > LARGEST_DISAGREEMENT}
    return f"outputs differ: {far}" if far else ""


def floors(work: Work, limits: dict[str, Any]) -> dict[str, float]:
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
