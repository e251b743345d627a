"""What a builder really executes where a graph asks for a quantized product: a table, measured.

`scripts/builder_capabilities.py` asks the builder, one form of a product at a time, and writes the table;
`docs/benchmarks/builder-capabilities.md` shows it, and says what the forms and verdicts are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from r1trt.artifacts.fields import InvalidFieldsError, Size, from_json
from r1trt.errors import PlanError
from r1trt.strict_json import json_object_from_file
from r1trt.text import listing

CAPABILITIES = Path(__file__).with_name("capabilities.json")
"""The table: by builder and version as in "tensorrt-rtx 1.7.1.116", then compute capability, then form."""

Verdict = Literal["executed", "falls back", "materialized", "miscompiled", "fails", "unread"]


@dataclass(frozen=True, kw_only=True)
class Capability:
    """What became of one form of a product.

    Attributes:
        verdict: "executed": its products run in the types that were asked for, its weight is stored as
            asked; "falls back": it builds, and wider operands are multiplied; "materialized": the weight is
            stored wider than asked; "miscompiled": it builds, and computes something else; "fails": no
            engine; "unread": the engine does not tell.
        parses: Whether the parser took the graph.
        products: Left, right and result type of each kind of product in the engine; empty where it has none.
        weight: Type that the engine stores the weight in; None without a weight, or unread.
        weight_bytes: Bytes of that.
        dequantized: Whether a weight that is narrower than the operands widens "inside" the product's kernel
            or "before", all of it in memory at every call; None where it is not narrower.
        engine_bytes: Size of the engine; 0 without one.
        reason: The builder's first error, or why the code is wrong; empty otherwise.
    """

    verdict: Verdict
    parses: bool = True
    products: tuple[tuple[str, ...], ...] = ()
    weight: str | None = None
    weight_bytes: Size = 0
    dequantized: Literal["inside", "before"] | None = None
    engine_bytes: Size = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What one version of a builder executes on one architecture.

    Attributes:
        builder: Its name, as in "tensorrt-rtx".
        version: The version that was measured.
        sm: Compute capability as in 89.
        forms: By the form's name, as in "fp8_rows".
        note: Says that another version was asked for, which nobody measured; empty otherwise.
    """

    builder: str
    version: str
    sm: int
    forms: Mapping[str, Capability]
    note: str = ""

    def __getitem__(self, form: str) -> Capability:
        """What became of a form.

        Raises:
            PlanError: It was not measured.
        """
        found = self.forms.get(form)
        if found is None:
            where = f"{self.builder} {self.version}, SM{self.sm}"
            raise PlanError("Unknown form.", where=where, found=form, expected=" | ".join(sorted(self.forms)))
        return found

    def executes(self, form: str) -> bool:
        """Whether a form's products run in the types that it asks for; see `Capability.verdict`."""
        return self[form].verdict == "executed"


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The whole file, as if it were an object of one key."""

    builders: Mapping[str, Mapping[str, Mapping[str, Capability]]]


def capabilities_of(
    builder_version: str, sm: int, *, builder: str = "tensorrt-rtx", table: Path = CAPABILITIES
) -> Capabilities:
    """What a builder executes on an architecture.

    Args:
        builder_version: Version of its library. For one that was not measured, the newest that was stands
            in, and the result's `note` says so.
        sm: Compute capability as in 89.
        builder: "tensorrt-rtx"; no other was measured.
        table: Where the measurements are.

    Raises:
        PlanError: The builder or the architecture was not measured, or the file is not such a table.
    """
    versions = {
        key.removeprefix(f"{builder} "): value
        for key, value in _read(table).items()
        if key.startswith(f"{builder} ")
    }
    if not versions:
        raise PlanError(f"Nothing was measured of the builder {builder}.", where=table, fix=_FIX)
    newest = max(versions, key=_numbers)
    measured = builder_version if builder_version in versions else newest
    note = (
        "" if measured == builder_version else f"{builder} {builder_version} was not measured: {measured} was"
    )
    targets = versions[measured]
    if str(sm) not in targets:
        raise PlanError(
            f"Nothing was measured of {builder} {measured} for this architecture.",
            where=table,
            found=f"SM{sm}",
            expected=" | ".join(f"SM{target}" for target in sorted(targets, key=int)),
            fix=_FIX,
        )
    return Capabilities(builder=builder, version=measured, sm=sm, forms=targets[str(sm)], note=note)


_FIX = "measure it with scripts/builder_capabilities.py"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))


def _read(path: Path) -> Mapping[str, Mapping[str, Mapping[str, Capability]]]:
    document: dict[str, Any] = json_object_from_file(path, error=PlanError)
    try:
        builders = from_json(_Table, {"builders": document}).builders
    except InvalidFieldsError as error:
        raise _invalid(path, error.problems) from error
    wrong = [
        f"{key}.{target}: not a number as in 89"
        for key, targets in builders.items()
        for target in targets
        if not re.fullmatch(r"[1-9][0-9]{0,3}", target)
    ]
    if wrong:
        raise _invalid(path, wrong)
    return builders


def _invalid(path: Path, problems: list[str]) -> PlanError:
    return PlanError(
        "The table of capabilities cannot be read.", where=path, found=listing(problems), fix=_FIX
    )
