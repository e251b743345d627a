"""Stage `check`: every kernel against its definition in FP64, on tensors drawn from this run's seed."""

from __future__ import annotations

import time
from typing import Any

from r1trt.plugin_checks.build import Built
from r1trt.plugin_checks.cases.operators import OPERATORS
from r1trt.plugin_checks.cases.selection import cases_of, drawn, fitted
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.device_kernels import DeviceKernels

TOLERANCE = (
    "`error` is the largest |kernel - FP64| over what is allowed for that element: the roundings of the data "
    "types and of FP32 accumulation, worked out by the reference. 1 is the limit"
)

LOST = "the GPU no longer answers this process; run again to go on after this case"


def run(context: Context, built: Built, previous: Result | None) -> Result:
    """Runs what no earlier run has done.

    Returns:
        A result whose `cases` have `operator`, `name`, `error` (None where there is none), `passed` and
        `seconds`.
    """
    done: list[dict[str, Any]] = list(previous["cases"]) if previous else []
    names = {item["name"] for item in done}
    library = DeviceKernels(built.kernels, on_gpu=context.on_gpu)
    pending = [
        (f"{operator}: {case}", (operator, case))
        for operator in OPERATORS
        for found in cases_of(operator, on_gpu=context.on_gpu, quick=context.quick)
        for case in [fitted(drawn(found, context.seed), context.sm, on_gpu=context.on_gpu)]
    ]
    for name, (operator, case) in context.selected(pending):
        if name in names:
            continue
        if context.budget.left <= 0:
            return _result(done, finished=False)
        done.append(checked(library, operator, case))
        context.log(describe(done[-1]))
        context.save(_result(done, finished=False))
        if not library.memory.answers:
            context.log(LOST)
            return _result(done, finished=False)
    return _result(done, finished=True)


def checked(library: DeviceKernels, operator: str, case: Any) -> dict[str, Any]:
    """One case's entry."""
    begin, error, why = time.monotonic(), None, None
    try:
        error = float(OPERATORS[operator].run(library, case))
    except (AssertionError, RuntimeError) as failure:
        why = str(failure)
    entry: dict[str, Any] = {
        "operator": operator,
        "name": f"{operator}: {case}",
        "error": error,
        "passed": why is None,
    }
    entry["seconds"] = round(time.monotonic() - begin, 2)
    return entry if why is None else {**entry, "why": why}


def describe(entry: dict[str, Any]) -> str:
    """One line for the terminal."""
    found = f"{entry['error']:.3f}" if entry["passed"] else "FAILED"
    return f"{found:>7}  {entry['name']}"


def _result(done: list[dict[str, Any]], *, finished: bool) -> Result:
    failures = [{"name": item["name"], "why": item["why"]} for item in done if not item["passed"]]
    return {"finished": finished, "tolerance": TOLERANCE, "cases": done, "failures": failures}
