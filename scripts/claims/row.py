"""What a row of docs/claims.md is made of, and the receipts that it leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from receipts import write_receipt

from claims.runs import Run, RunStore

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every row is asked for.

    Attributes:
        store: Where finished runs are kept.
        seeds: How many of them; those of a later call that stands are not run again.
        reduced: Sizes that take seconds: shows that the row runs, not what it measures.
        variants: The only ones to start, of rows that train several; empty for all. Others that stand are
            reported all the same.
    """

    store: RunStore
    seeds: int = 3
    reduced: bool = False
    variants: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One claim.

    Attributes:
        name: As --row takes it; receipts are `claims-NAME.json`, `.md` and, if it draws, `.svg`.
        measure: Makes the runs; the result, as JSON can hold it, is what the receipt says.
        page: The receipt as Markdown, without its heading.
        draw: Draws the receipt into a file.
    """

    name: str
    measure: Callable[[Options], dict[str, Any]]
    page: Callable[[Mapping[str, Any]], str]
    draw: Callable[[Mapping[str, Any], Path], None] | None = None


def write_receipts(row: Row, options: Options, directory: Path) -> Path | None:
    """Measures a row and writes its receipts; returns the page, or None where no run of it stands."""
    counts = options.store.counts
    before = Counter(counts)
    document = {
        "row": row.name,
        "day": datetime.now(UTC).date().isoformat(),
        "reduced": options.reduced,
        **row.measure(options),
    }
    if counts["asked"] > before["asked"] and counts["result"] == before["result"]:
        return None  # receipts that are there say more
    name = f"claims-{row.name}"
    lines = [f"# Claims: {row.name}, {document['day']}", ""]
    if options.reduced:
        lines += ["**Reduced sizes: these figures say nothing about the claim.**", ""]
    lines += [f"`python scripts/claims --row {row.name}`", "", row.page(document)]
    if row.draw is not None:
        directory.mkdir(parents=True, exist_ok=True)
        row.draw(document, directory / f"{name}.svg")
        lines += ["", f"![{row.name}]({name}.svg)"]
    return write_receipt(directory, name, document, "\n".join(lines).rstrip() + "\n")


def measured_trials(
    row: str, trials: Mapping[str, Any], measure: Callable[[Any, int], dict[str, Any]], options: Options
) -> dict[str, Any]:
    """Measures all variants with one seed, then with the next.

    Args:
        row: Name of the row.
        trials: What is measured, a frozen dataclass, by name of the variant.
        measure: Takes a trial and a seed; its result is what JSON can hold.
        options: Of the command.

    Returns:
        `runs`, the records of all that has run.
    """
    runs = []
    for seed, (variant, trial) in product(range(options.seeds), trials.items()):
        run = Run(row=row, variant=variant, seed=seed, config=asdict(trial))
        starts = not options.variants or variant in options.variants
        store = options.store if starts else replace(options.store, finished_only=True)
        record = store.record(run, partial(measure, trial, seed))
        runs += [record] if record else []
    return {"runs": runs}


def by_variant(document: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The results of each variant's runs, a seed each."""
    names = dict.fromkeys(run["variant"] for run in document["runs"])
    return {name: [run["result"] for run in document["runs"] if run["variant"] == name] for name in names}


def effort(document: Mapping[str, Any]) -> str:
    """How many runs there were, what they took, and on what."""
    runs = document["runs"]
    if not runs:
        return "Nothing has run."
    processor = sum(run["processor_seconds"] for run in runs)
    machines = dict.fromkeys(f"{run['machine']['cores']} cores of an {run['machine']['cpu']}" for run in runs)
    threads = max(run["threads"] for run in runs)
    return (
        f"{len(runs)} runs, {processor / 60:.0f} minutes of processor time, {threads} thread(s) on "
        f"{' and '.join(machines)}, torch {runs[0]['torch']}."
    )


def column(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    """One figure of each seed."""
    return [result[key] for result in results]


def spread(values: Sequence[float], form: str) -> str:
    """The mean of what the seeds gave, and the least and the most in parentheses."""
    if len(values) == 1:
        return f"{values[0]:{form}} (one seed)"
    return f"{mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def figure_of(columns: int) -> tuple[Any, Any]:
    """A figure with panels side by side that no display is needed for, and its axes, always an array."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "claims"  # the same figures give the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, columns, figsize=(5.5 * columns, 4), layout="constrained", squeeze=False
    )
    return figure, axes[0]


def save_figure(figure: Any, path: Path) -> None:
    """Writes a figure, without the day in it, and frees it."""
    from matplotlib import pyplot

    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
