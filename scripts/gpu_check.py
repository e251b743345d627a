"""Builds, checks and times the operators on this machine's GPU, and writes a receipt.

    python scripts/gpu_check.py                          # everything, for ten minutes; again to go on
    python scripts/gpu_check.py --stage build --stage check
    python scripts/gpu_check.py --host --quick           # no GPU: the kernels on the CPU, without times
    python scripts/gpu_check.py --stage build --sm 90    # no GPU: compiles only
    python scripts/gpu_check.py --render receipt.json --output docs/benchmarks

Exits with 0 when all checks passed, whatever became of the aims; with 1 when one failed or a build did; with
3 without a GPU; with 4 when the time ended first: run it again, and it goes on with what is missing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gpu import REPOSITORY, WORK
from gpu.context import GPU, HOST, Budget, Context, Result
from gpu.machine import header, require_gpu
from gpu.receipt import STAGES, Receipt, open_receipt, read_receipt
from gpu.report import markdown, publish

from r1trt.errors import ConfigError, R1TrtError

FAILED, UNFINISHED = 1, 4
TIME_BUDGET_S = 570.0  # a little less than ten minutes
HOST_SM = 90


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--stage", action="append", choices=STAGES, help="only this one; may be repeated")
    result.add_argument("--time-budget", type=float, default=TIME_BUDGET_S, metavar="SECONDS")
    result.add_argument(
        "--seed", type=int, help="of all random numbers; by default, the receipt's or a fresh one"
    )
    result.add_argument(
        "--receipt", type=Path, help="what to write and to go on with (build/gpu/receipt.json)"
    )
    result.add_argument(
        "--output", type=Path, help="folder for receipt and page (docs/benchmarks; none with --host)"
    )
    result.add_argument("--quick", action="store_true", help="few cases and rows")
    result.add_argument("--again", action="store_true", help="run stages that are finished once more")
    result.add_argument("--host", action="store_true", help="run the kernels on the CPU, without times")
    result.add_argument(
        "--sm", type=int, help="compile for this compute capability; with --stage build alone"
    )
    result.add_argument("--render", type=Path, metavar="RECEIPT", help="only write the page of a receipt")
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    try:
        return run(parser().parse_args(arguments))
    except R1TrtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(options: argparse.Namespace) -> int:
    """Runs the stages.

    Raises:
        R1TrtError: There is no GPU, or something does not compile.
    """
    if options.render:
        return _render(read_receipt(options.render), options.output)
    stages = options.stage or list(STAGES)
    compile_only = options.sm is not None
    if compile_only and (stages != ["build"] or options.host):
        raise ConfigError("--sm is for compiling alone", fix="add --stage build, or leave --sm out")
    if options.time_budget <= 0:
        raise ConfigError(
            "no time to run in", where="--time-budget", found=options.time_budget, expected="> 0"
        )
    mode = HOST if options.host else GPU
    sm = HOST_SM if options.host else options.sm if compile_only else require_gpu()
    default = WORK / ("host.json" if options.host else f"sm{sm}.json" if compile_only else "receipt.json")
    receipt = open_receipt(options.receipt or default, header(mode), seed=options.seed)
    budget = Budget(seconds=options.time_budget)
    for name in STAGES:
        if name in stages or name == "build":
            again = options.again and name in stages
            _run_stage(name, receipt, mode=mode, sm=sm, budget=budget, quick=options.quick, again=again)
    _render(
        receipt,
        None if options.host or compile_only else options.output or REPOSITORY / "docs" / "benchmarks",
    )
    return _verdict(receipt, stages)


def _run_stage(
    name: str, receipt: Receipt, *, mode: str, sm: int, budget: Budget, quick: bool, again: bool
) -> None:
    """Runs a stage unless it is finished, and keeps what it says."""
    from gpu import build, check, plugin_stages, sanitize, time_stage

    def save(result: Result) -> None:
        receipt.record(name, result, finished=False)

    context = Context(mode=mode, sm=sm, seed=receipt.seed, budget=budget, save=save, log=_log, quick=quick)
    previous = None if again else receipt.stage(name)
    if name == "build":
        if previous is None or build.built_from(previous) is None:
            _record(receipt, name, build.run(context, None))
        return
    if previous is not None and previous["finished"] and quick >= previous.get("quick", False):
        return
    built = build.built_from(receipt.content["stages"]["build"])
    assert built is not None, "the build stage leaves what it names"
    if budget.left <= 0:
        return
    _log(f"-- {name}")
    functions: dict[str, Callable[[Context, build.Built, Result | None], Result]] = {
        "check": check.run,
        "sanitize": sanitize.run,
        "harness": plugin_stages.run_harness,
        "graph": plugin_stages.run_graph,
        "time": time_stage.run,
    }
    _record(receipt, name, {**functions[name](context, built, previous), "quick": quick})


def _record(receipt: Receipt, name: str, result: Result) -> None:
    receipt.record(name, result, finished=bool(result["finished"]))


def _verdict(receipt: Receipt, stages: Sequence[str]) -> int:
    if receipt.failures:
        print(f"{len(receipt.failures)} failed:", *receipt.failures, sep="\n  ", file=sys.stderr)
        return FAILED
    unfinished = [name for name in stages if not receipt.is_finished(name)]
    if unfinished:
        print(f"not finished: {', '.join(unfinished)}; run it again to go on", file=sys.stderr)
        return UNFINISHED
    return 0


def _render(receipt: Receipt, folder: Path | None) -> int:
    print(markdown(receipt))
    if folder is not None:
        for path in publish(receipt, folder):
            print(path, file=sys.stderr)
    return 0


def _log(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
