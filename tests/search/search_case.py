"""What the tests of this folder share by name."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.export.io import ExportedModel
from r1trt.precision.plan import PrecisionPlan
from r1trt.search.candidates import Group
from r1trt.search.chain import ModelChain

CAPACITY = 64


@dataclass(frozen=True, kw_only=True)
class Case:
    export: ExportedModel
    chain: ModelChain
    exact: PrecisionPlan
    plans: dict[str, PrecisionPlan]
    groups: list[Group]
