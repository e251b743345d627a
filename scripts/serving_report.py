"""Figures of the serving benchmark: medians, ratios, a table and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any


def same_answers(results: Sequence[dict[str, Any]], ours: str) -> dict[str, float]:
    """Share of each contender's answers that some answer of ours equals, letter for letter."""
    expected = {text for result in results if result["contender"] == ours for text in result["texts"]}
    shares: dict[str, list[float]] = {}
    for result in results:
        same = sum(text in expected for text in result["texts"]) / len(result["texts"])
        shares.setdefault(result["contender"], []).append(same)
    return {name: round(sum(values) / len(values), 3) for name, values in shares.items()}


def medians(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a contender and concurrency: medians over the repetitions, and the range of throughput."""
    groups: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["concurrency"], result["contender"]), []).append(result)
    rows = []
    for (concurrency, name), group in sorted(groups.items()):
        throughputs = [result["new_tokens_per_second"] for result in group]
        rows.append(
            {
                "contender": name,
                "concurrency": concurrency,
                "repeats": len(group),
                "tokens_per_second": round(median(throughputs), 1),
                "tokens_per_second_range": [min(throughputs), max(throughputs)],
                **{
                    f"{key}_{percentile}": round(median(result[key][percentile] for result in group), 1)
                    for key in ("time_to_first_token_ms", "time_per_token_ms")
                    for percentile in ("p50", "p99")
                },
            }
        )
    return rows


def ratios(rows: Sequence[dict[str, Any]], ours: str) -> dict[str, float]:
    """How much each contender gains from more requests at a time, and how ours compares with the others."""
    found = {(row["contender"], row["concurrency"]): row["tokens_per_second"] for row in rows}
    result = {}
    for (name, concurrency), value in found.items():
        if concurrency > 1:
            result[f"{name}, {concurrency} at a time / 1"] = round(value / found[name, 1], 2)
        if name != ours:
            title = f"{ours} / {name}, {concurrency} at a time"
            result[title] = round(found[ours, concurrency] / value, 2)
    return result


def markdown(report: dict[str, Any]) -> str:
    """Renders a report as a table."""
    host = report["machine"]
    lines = [
        f"# Serving SmolLM2-135M in {report['precision'].upper()} on a CPU, {report['date']}",
        "",
        f"{host['cpu']}, {host['cores']} cores, {host['memory_gb']} GB; {report['threads']} threads each. "
        f"{report['rows']} rows of {report['capacity']} tokens; prompts of {report['prompt_tokens'][0]} to "
        f"{report['prompt_tokens'][1]} tokens, {report['max_tokens']} new tokens, greedy. Medians of "
        f"up to {report['repeats']} interleaved repetitions (range in brackets). During these loads others "
        f"took {report['others_share'][0]:.0%} of the processors (median; at most "
        f"{report['others_share'][1]:.0%}); "
        f"{len(report['discarded'])} loads that were disturbed more are left out.",
        "",
        "| at a time | contender | new tokens/s | first token, ms (p50 / p99) | time per token, ms (p50) |",
        "|---|---|---|---|---|",
    ]
    for row in report["medians"]:
        low, high = row["tokens_per_second_range"]
        lines.append(
            f"| {row['concurrency']} | {row['contender']} "
            f"| {row['tokens_per_second']:.1f} ({low:.1f}-{high:.1f}) "
            f"| {row['time_to_first_token_ms_p50']:.0f} / {row['time_to_first_token_ms_p99']:.0f} "
            f"| {row['time_per_token_ms_p50']:.1f} |"
        )
    lines += ["", "| ratio of new tokens/s | |", "|---|---|"]
    lines += [f"| {name} | {value:.2f} |" for name, value in report["ratios"].items()]
    lines += ["", "Answers that are letter for letter those of `r1trt serve`: "]
    lines[-1] += ", ".join(f"{name} {share:.0%}" for name, share in report["same_answers"].items()) + "."
    lines += ["", *(f"- {name}: {text}" for name, text in report["versions"].items())]
    return "\n".join(lines) + "\n"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws throughput and time to first token against concurrency, a group of bars each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    concurrencies = sorted({row["concurrency"] for row in rows})
    names = list(dict.fromkeys(row["contender"] for row in rows))
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    panels = (("tokens_per_second", "new tokens per second"), ("time_to_first_token_ms_p50", "ms"))
    for axis, (key, label) in zip(axes, panels, strict=True):
        for index, name in enumerate(names):
            values = {row["concurrency"]: row[key] for row in rows if row["contender"] == name}
            places = [concurrencies.index(concurrency) + 0.27 * (index - 1) for concurrency in values]
            bars = axis.bar(places, list(values.values()), 0.25, label=name)
            axis.bar_label(bars, fmt="%.0f", fontsize=8)
        axis.set_xticks(range(len(concurrencies)), [str(each) for each in concurrencies])
        axis.set(xlabel="requests at a time", ylabel=label)
    axes[0].set_title("throughput")
    axes[1].set_title("time to first token, median")
    axes[0].legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
