"""Runs the stages: builds, checks and times the operators, and goes on with an earlier run's receipt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from r1trt.cache import cache_directory
from r1trt.errors import UsageError
from r1trt.plugin_checks import build, check, plugin_stages, sanitize
from r1trt.plugin_checks.bench import time_stage
from r1trt.plugin_checks.context import GPU, HOST, Budget, Context, Result
from r1trt.plugin_checks.machine import header, require_gpu
from r1trt.plugin_checks.receipt import Receipt, open_receipt
from r1trt.plugin_checks.report import markdown, publish
from r1trt.plugin_checks.stages import BUILD, STAGES
from r1trt.plugin_tools.library import PluginLibrary

FAILED, UNFINISHED = 1, 4
HOST_SM = 90

Log = Callable[[str], None]
Stage = Callable[[Context, build.Built, Result | None], Result]
STAGE_FUNCTIONS: dict[str, Stage] = {
    "check": check.run,
    "sanitize": sanitize.run,
    "harness": plugin_stages.run_harness,
    "graph": plugin_stages.run_graph,
    "time": time_stage.run,
}


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What to run.

    Attributes:
        stages: Names of `STAGES`; `build` comes first in any case.
        time_budget: Seconds after which no further check starts.
        seed: Of all random numbers; None takes the receipt's, or draws one.
        receipt: What is written, and continued by the next run; None takes one a mode in the cache.
        output: Folder for a copy of the receipt and its page; None writes none.
        quick: Few cases and rows.
        only: Texts, one of which the names of cases and rows must have; the stages are not finished then.
        again: Whether finished stages run once more.
        host: Whether the kernels run on the CPU, without times.
        sm: Compile for this compute capability and run nothing; None takes the GPU's.
        plugin_library: The library to check; None takes what `r1trt build` would take, or builds one.
    """

    stages: tuple[str, ...] = STAGES
    time_budget: float = 570.0
    seed: int | None = None
    receipt: Path | None = None
    output: Path | None = None
    quick: bool = False
    only: tuple[str, ...] = ()
    again: bool = False
    host: bool = False
    sm: int | None = None
    plugin_library: Path | None = None

    def __post_init__(self) -> None:
        if unknown := set(self.stages) - set(STAGES):
            raise UsageError("No such stage.", found=", ".join(sorted(unknown)), expected=", ".join(STAGES))
        if self.sm is not None and (set(self.stages) != {BUILD} or self.host):
            raise UsageError(
                "A compute capability is named for compiling alone.",
                where="--sm",
                fix="add --stage build, or leave --sm out",
            )
        if self.plugin_library is not None and self.host:
            raise UsageError(
                "On the CPU the plugins are compiled from their sources; no library is loaded.",
                where="--plugin-library",
                found=self.plugin_library,
                fix="leave out --host or --plugin-library",
            )
        if self.time_budget <= 0:
            raise UsageError(
                "The time budget must be positive.",
                where="--time-budget",
                found=self.time_budget,
                expected="> 0",
            )

    @property
    def receipt_file(self) -> str:
        """The receipt's name where none is given."""
        if self.sm is not None:
            return f"sm{self.sm}.json"
        return "host.json" if self.host else "receipt.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run.

    Attributes:
        receipt: Everything that was found, by this run and those before it.
        page: The receipt as Markdown.
        failures: Checks that failed, as `stage: which: why`.
        unfinished: Stages that were asked for and did not come to their end.
        published: Files that were written beside the receipt.
    """

    receipt: Receipt
    page: str
    failures: list[str]
    unfinished: list[str]
    published: list[Path] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0, or what says that a check failed or that time ended first."""
        if self.failures:
            return FAILED
        return UNFINISHED if self.unfinished else 0


def run_checks(config: RunConfig, log: Log) -> Outcome:
    """Runs the stages that no earlier run has finished.

    Args:
        config: What to run.
        log: Told of each step.

    Raises:
        UnavailableError: There is no GPU, or no compiler.
        BuildError: Something does not compile, or the named library is not one for this GPU.
        ConfigError: The receipt's file is something else.
    """
    sm = HOST_SM if config.host else config.sm if config.sm is not None else require_gpu()
    budget = Budget(seconds=config.time_budget)
    library = None if config.host else _library(config, sm, log)
    path = config.receipt or cache_directory() / "checks" / config.receipt_file
    identity = header(HOST if config.host else GPU, library.sha256 if library is not None else None)
    receipt = open_receipt(path, identity, seed=config.seed)
    ended: set[str] = set()
    for name in STAGES:
        if name not in config.stages and name != BUILD:
            continue
        context = _context(name, config, sm, receipt, budget, log)
        previous = None if config.again and name in config.stages else receipt.stage(name)
        if _run_stage(name, receipt, context, previous, library):
            ended.add(name)
    unfinished = [name for name in config.stages if name not in ended]
    published = [] if config.output is None else publish(receipt, config.output)
    return Outcome(
        receipt=receipt,
        page=markdown(receipt),
        failures=receipt.failures,
        unfinished=unfinished,
        published=published,
    )


def _library(config: RunConfig, sm: int, log: Log) -> PluginLibrary:
    return build.plugin_library(config.plugin_library, sm, log)


def _context(name: str, config: RunConfig, sm: int, receipt: Receipt, budget: Budget, log: Log) -> Context:
    """What a stage is given."""
    return Context(
        mode=HOST if config.host else GPU,
        sm=sm,
        seed=receipt.seed,
        budget=budget,
        save=lambda result: receipt.record(name, result, finished=False),
        log=log,
        quick=config.quick,
        only=config.only,
    )


def _run_stage(
    name: str, receipt: Receipt, context: Context, previous: Result | None, library: PluginLibrary | None
) -> bool:
    """Runs a stage unless it is finished, keeps what it found, and returns whether it came to its end."""
    if name == BUILD:
        if previous is None or build.built_from(previous, library) is None:
            receipt.record(name, build.run(context, library), finished=True)
        return True
    if previous is not None and previous["finished"] and context.quick >= previous.get("quick", False):
        return True
    built = build.built_from(receipt.content["stages"][BUILD], library)
    if built is None or context.budget.left <= 0:
        return False
    context.log(f"-- {name}")
    result = STAGE_FUNCTIONS[name](context, built, previous)
    ended = bool(result["finished"])
    receipt.record(name, {**result, "quick": context.quick}, finished=ended and not context.only)
    return ended
