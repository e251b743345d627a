"""What a receipt must hold for a run to go on with it, and for its page."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from r1trt.artifacts.fields import Check, InvalidFieldsError, Schema, Sm, from_json
from r1trt.plugin_checks.stages import MAX_SEED

SCHEMA = 1
KIND = "gpu-check"


def _is_time(text: str) -> bool:
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


Time = Annotated[str, Check(expected="a time in ISO 8601", holds=_is_time)]
Seed = Annotated[int, Check(expected="an integer from 0 to 2^63 - 1", holds=lambda n: 0 <= n <= MAX_SEED)]
Version = Annotated[int, Check(expected=str(SCHEMA), holds=lambda n: n == SCHEMA)]


@dataclass(frozen=True, kw_only=True)
class ReceiptHeader:
    """Everything but the stages' results; `machine.header` says what the fields are."""

    schema: Version
    kind: Literal["gpu-check"]
    mode: Literal["gpu", "host"]
    gpu: str | None
    sm: Sm | None
    driver: str | None
    cuda_driver: str | None
    python: str
    packages: Mapping[str, str]
    commit: str | None
    sources: str
    plugin_library: str | None = None
    started: Time
    seed: Seed
    stages: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A check that failed."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class CheckEntry:
    """One check; its errors are None where they are not a finite number."""

    name: str
    passed: bool
    error: float | None = None
    errors: tuple[float | None, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        if not (self.passed or self.why):
            raise ValueError("a failed check without a reason")


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """What every stage's result has."""

    finished: bool
    failures: tuple[Failure, ...]
    quick: bool = False
    skipped: str = ""


@dataclass(frozen=True, kw_only=True)
class BuiltFiles:
    """Paths of what was built."""

    plugins: str
    harness: str
    kernels: str


@dataclass(frozen=True, kw_only=True)
class BuildEntry(StageEntry):
    """Stage `build`."""

    files: BuiltFiles
    nvcc: str = ""


@dataclass(frozen=True, kw_only=True)
class CasesEntry(StageEntry):
    """Stages with a list of cases."""

    cases: tuple[CheckEntry, ...]
    cuda_graph: bool = True


@dataclass(frozen=True, kw_only=True)
class RunsEntry(StageEntry):
    """Stage `sanitize`."""

    runs: tuple[CheckEntry, ...]


@dataclass(frozen=True, kw_only=True)
class TimeEntry:
    """A contender's time, in microseconds."""

    us: float


@dataclass(frozen=True, kw_only=True)
class AimEntry:
    """What came of an aim; `met` is None where it was not measured."""

    aim: str
    met: bool | None
    found: float | None
    why: str = ""
    not_measured: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.met is None and not self.why) or (self.met is not None and self.found is None):
            raise ValueError("an aim with neither a figure nor a reason")


@dataclass(frozen=True, kw_only=True)
class RowEntry:
    """One row of the table of times."""

    name: str
    times: Mapping[str, TimeEntry]
    ratios: Mapping[str, float]
    left_out: Mapping[str, str]
    aims: tuple[AimEntry, ...]
    floor_over_ours: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PeaksEntry:
    """A data sheet's rates, per second."""

    bf16: float
    fp8: float
    bandwidth: float


@dataclass(frozen=True, kw_only=True)
class CeilingsEntry:
    """What a data sheet says and a machine reached, per second; 0 where it was not measured."""

    data_sheet: PeaksEntry | None
    copy: float = 0.0
    bf16: float = 0.0
    fp8: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TimesEntry(StageEntry):
    """Stage `time`."""

    rows: tuple[RowEntry, ...]
    ceilings: CeilingsEntry | None = None

    def __post_init__(self) -> None:
        if self.rows and self.ceilings is None:
            raise ValueError("rows without ceilings")


STAGE_SCHEMAS: Mapping[str, type[Schema]] = {
    "build": BuildEntry,
    "check": CasesEntry,
    "sanitize": RunsEntry,
    "harness": CasesEntry,
    "graph": CasesEntry,
    "time": TimesEntry,
}


def require_receipt(content: object) -> None:
    """Refuses what is not a receipt of this version.

    Args:
        content: What the file holds.

    Raises:
        InvalidFieldsError: Lists the keys.
    """
    header = from_json(ReceiptHeader, content)
    problems = []
    for name, stage in header.stages.items():
        schema = STAGE_SCHEMAS.get(name)
        if schema is None:
            problems.append(f"stages: {name!a:.80}, expected {', '.join(STAGE_SCHEMAS)}")
            continue
        try:
            from_json(schema, stage, f"stages.{name}")
        except InvalidFieldsError as error:
            problems += error.problems
    if problems:
        raise InvalidFieldsError(problems)
