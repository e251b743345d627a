"""The receipt as a page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from r1trt.plugin_checks.bench.aims import OURS
from r1trt.plugin_checks.receipt import Receipt

MOST_WORDS = 160


def stem_of(receipt: Receipt) -> str:
    """The page's file name without its suffix: what, on which GPU, on which day."""
    gpu = re.sub(r"[^a-z0-9]+", "-", str(receipt.content["gpu"] or "cpu").lower()).strip("-")
    return f"operators_{gpu}_{receipt.content['started'][:10]}"


def publish(receipt: Receipt, folder: Path) -> list[Path]:
    """Writes receipt and page into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    copy = Receipt(folder / f"{stem_of(receipt)}.json", receipt.content)
    copy.save()
    page = folder / f"{stem_of(receipt)}.md"
    page.write_text(markdown(receipt), encoding="utf-8")
    return [copy.path, page]


def markdown(receipt: Receipt) -> str:
    """Renders a receipt."""
    content = receipt.content
    host = content["mode"] == "host"
    title = "the CPU, without times" if host else content["gpu"]
    lines = [f"# Operators on {title}, {content['started'][:10]}", ""]
    if host:
        lines += [
            "The kernels' sources as the CPU executes them: no GPU was used, and nothing was timed.",
            "",
        ]
    lines += [_machine(content), "", *_checks(receipt), *_times(content["stages"].get("time"))]
    return "\n".join(lines) + "\n"


def _machine(content: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in content["packages"].items())
    parts = [
        f"Commit {content['commit'] or 'unknown'}, sources {content['sources']}, seed {content['seed']}."
    ]
    if content["gpu"]:
        parts.append(f"Driver {content['driver']}, CUDA {content['cuda_driver']}, SM{content['sm']}.")
    if content.get("plugin_library"):
        parts.append(f"Plugin library {content['plugin_library'][:12]}.")
    parts.append(f"Python {content['python']}; {packages}.")
    if content["stages"].get("build", {}).get("nvcc"):
        parts.append(f"nvcc {content['stages']['build']['nvcc']}.")
    return " ".join(parts)


def _checks(receipt: Receipt) -> list[str]:
    """A row a stage."""
    lines = [
        "## Checks",
        "",
        "| stage | runs | failed | largest error over its tolerance | |",
        "|---|---|---|---|---|",
    ]
    for name, stage in receipt.content["stages"].items():
        if name == "time":
            continue
        items = stage.get("cases", stage.get("runs", []))
        errors = [
            error
            for item in items
            for error in [item.get("error"), *item.get("errors", [])]
            if error is not None
        ]
        worst = f"{max(errors):.2f}" if errors else ""
        remark = stage.get("skipped") or ("" if stage["finished"] else "not finished")
        remark += " (few of them: --quick)" if stage.get("quick") and items else ""
        if name == "graph" and not stage.get("cuda_graph", True):
            remark = "called again: the CPU has no graphs"
        lines.append(f"| {name} | {len(items) or ''} | {len(stage['failures'])} | {worst} | {remark} |")
    lines += [f"\nNot run: {', '.join(receipt.unfinished)}."] if receipt.unfinished else []
    lines += ["", *(f"- FAILED {_short(failure)}" for failure in receipt.failures)]
    return [*lines, ""] if receipt.failures else lines


def _times(stage: dict[str, Any] | None) -> list[str]:
    if not stage or not stage["rows"]:
        why = stage.get("skipped") if stage else None
        return ["## Times", "", f"None: {why or 'the stage was not run'}."]
    lines = ["## Times", "", _ceilings(stage["ceilings"]), ""]
    lines += [
        "Medians in microseconds; `x` is a peer's time over ours, `floor` the roofline's time over ours.",
        "",
    ]
    lines += ["| row | r1trt us | floor (data sheet / measured) | peers | aims |", "|---|---|---|---|---|"]
    lines += [_row(row) for row in stage["rows"]]
    left_out = sorted({(name, _short(why)) for row in stage["rows"] for name, why in row["left_out"].items()})
    if left_out:
        lines += ["", "Left out:", "", *(f"- {name}: {why}" for name, why in left_out)]
    return lines


def _ceilings(found: dict[str, Any]) -> str:
    units = {"copy": (1e12, "TB/s, read and written"), "bf16": (1e12, "TFLOP/s"), "fp8": (1e12, "TFLOP/s")}
    parts = [
        f"{name} {found[name] / scale:.2f} {unit}" for name, (scale, unit) in units.items() if name in found
    ]
    return f"Ceilings measured here: {'; '.join(parts)}."


def _row(row: dict[str, Any]) -> str:
    ours = row["times"].get(OURS, {}).get("us")
    floors = [f"{value:.0%}" for value in row.get("floor_over_ours", {}).values()]
    peers = [
        f"{name} {item['us']:.2f}" + (f" ({row['ratios'][name]:.2f}x)" if name in row["ratios"] else "")
        for name, item in row["times"].items()
        if name != OURS
    ]
    aims = [f"{aim['aim']}: {_judgement(aim)}" for aim in row["aims"]]
    cells = [
        row["name"],
        f"{ours:.2f}" if ours is not None else "failed",
        " / ".join(floors),
        *map("<br>".join, (peers, aims)),
    ]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _judgement(aim: dict[str, Any]) -> str:
    if aim["met"] is None:
        return f"not measured ({_short(aim['why'])})"
    lacking = f", without {', '.join(aim['not_measured'])}" if aim.get("not_measured") else ""
    return f"{'met' if aim['met'] else 'missed'} ({aim['found']:.3g}{lacking})"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MOST_WORDS else line[: MOST_WORDS - 1] + "…"
