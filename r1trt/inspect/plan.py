"""A precision plan."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from r1trt.inspect.summary import LAYER, Summary, Table
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan


def summary_of_plan(path: Path) -> Summary:
    """Summarizes a precision plan's file.

    Raises:
        PlanError: It is not a precision plan.
    """
    plan = load_plan(path)
    facts = {
        "arch": plan.arch,
        "precision": plan.precision,
        "layers": len(plan.layers),
        "missing scales": len(plan.missing_scales),
        **{f"calibration {name}": value for name, value in plan.calibration.items()},
    }
    return Summary(kind="precision plan", path=path, facts=facts, tables=[plan_table(plan)])


def plan_table(plan: PrecisionPlan) -> Table:
    """Layers of the same name in every decoder layer and with the same types are one row.

    A plan for a builder with plugins says in a column of its own which layers those are, and one that chooses
    the KV cache's type in another what it is.
    """
    chooses = any(layer.implementation for layer in plan.layers.values())
    holds = any(layer.cache for layer in plan.layers.values())
    rows = Counter(
        (
            LAYER.sub("model.layers.*.", name),
            *(layer.op, layer.input, layer.weight or "", layer.output),
            *((layer.implementation or "",) if chooses else ()),
            *((layer.cache or "",) if holds else ()),
        )
        for name, layer in plan.layers.items()
    )
    chosen = (*(("implementation",) if chooses else ()), *(("KV cache",) if holds else ()))
    columns = ("layer", "operator", "input", "weight", "output", *chosen)
    rows_counted = [(*row, count) for row, count in rows.items()]
    return Table(title="Precision", header=(*columns, "count"), rows=rows_counted)
