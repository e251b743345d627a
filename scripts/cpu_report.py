"""The page of `benchmark_cpu.py`."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

NOTES = """\
Each has a process of its own that stays alive; they take turns, task by task, in every round. Numbers
are medians (least to most). Loading ends when one token has been read; files lie in the machine's cache, and
starting Python is not counted. Peak memory is that of a fresh process for one row, with a prompt read and
some tokens written; mapped files and Python's libraries count. r1trt caches keys and values in FP32,
llama.cpp in FP16. GenAI picks the next token too, and computes logits of every token of a prompt.

llama.cpp's K-quants take blocks of 256: a weight whose rows do not divide by that, such as SmolLM2's of 576,
falls back to another type (Q4_K to Q5_0, Q6_K to Q8_0), so Q4_K_M is larger there than its name says.
SmolLM2's weights here were once stored as Q4_1, which favours formats like it."""


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    facts, share = document["machine"], document["others_share"]
    lines = [
        f"# --arch cpu beside llama.cpp and ONNX Runtime GenAI: {document['model']}, {document['day']}",
        "",
    ]
    lines += [
        f"{facts['cpu']}, {facts['cores']} cores; {document['threads']} threads each; {document['rounds']} "
        f"rounds. Others took {100 * share['during']:.0f} % of the processor time meanwhile. "
        f"{document['note']}".strip(),
        "",
        NOTES,
        "",
        *_table(document),
        *_ratios(document),
        *_quality(document),
        *[f"- {name} did not run: {reason}" for name, reason in document["did_not_run"].items()],
    ]
    return "\n".join(lines).rstrip() + "\n"


def _columns(document: Mapping[str, Any]) -> list[str]:
    keys: dict[str, None] = {}
    for samples in document["samples"].values():
        keys.update(dict.fromkeys(samples))
    return list(keys)


def _title(key: str) -> str:
    kind, *numbers = key.split()
    if kind == "prefill":
        return f"prompt {numbers[0]} x {numbers[1]}, tokens/s"
    if kind == "decode":
        return f"decode at {numbers[0]} x {numbers[2]}, tokens/s"
    return {"load": "load, s", "peak": "peak memory, MB"}[key]


def value(key: str, seconds: float) -> float:
    """What the table shows of a sample: tokens a second, MB, or the seconds that it is."""
    kind, *numbers = key.split()
    if kind == "prefill":
        return int(numbers[0]) * int(numbers[1]) / seconds
    if kind == "decode":
        return int(numbers[2]) / seconds
    return seconds / 1e6 if key == "peak" else seconds


def _cell(key: str, samples: Sequence[float]) -> str:
    if not samples:
        return ""
    values = [value(key, sample) for sample in samples]
    digits = 2 if key == "load" else 1 if statistics.median(values) < 100 else 0
    low, middle, high = (f"{x:.{digits}f}" for x in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def _table(document: Mapping[str, Any]) -> Iterator[str]:
    names = list(document["samples"])
    sizes = {item["name"]: item["bytes"] for item in document["contenders"]}
    yield f"| | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    yield f"| files, MB | {' | '.join(f'{sizes[name] / 1e6:.0f}' for name in names)} |"
    for key in _columns(document):
        cells = [_cell(key, document["samples"][name].get(key, [])) for name in names]
        yield f"| {_title(key)} | {' | '.join(cells)} |"
    yield ""


def ratio(key: str, ours: Sequence[float], peers: Sequence[float]) -> tuple[float, float, float]:
    """Least, median and most of ours to the peer's, round by round; above 1 ours has more of it."""
    pairs = zip(ours, peers, strict=False)
    ratios = [value(key, mine) / value(key, its) for mine, its in pairs]
    return min(ratios), statistics.median(ratios), max(ratios)


def _ratios(document: Mapping[str, Any]) -> Iterator[str]:
    items, samples = document["contenders"], document["samples"]
    pairs = [
        (mine["name"], its["name"])
        for mine in items
        for its in items
        if mine["ours"] and not its["ours"] and mine["bits"] == its["bits"]
        if mine["name"] in samples and its["name"] in samples
    ]
    if not pairs:
        return
    yield "Ours to the peer of the same width, round by round: above 1 is faster, but for load and memory."
    yield ""
    yield "| | " + " | ".join(f"{mine} / {its}" for mine, its in pairs) + " |"
    yield "|---|" + "---|" * len(pairs)
    for key in _columns(document):
        cells = []
        for mine, its in pairs:
            ours, theirs = samples[mine].get(key), samples[its].get(key)
            low, middle, high = ratio(key, ours, theirs) if ours and theirs else (0.0, 0.0, 0.0)
            cells.append(f"{middle:.2f} ({low:.2f} to {high:.2f})" if ours and theirs else "")
        yield f"| {_title(key).split(', ')[0]} | {' | '.join(cells)} |"
    yield ""


def _quality(document: Mapping[str, Any]) -> Iterator[str]:
    if not document["quality"]:
        return
    tokens = next(iter(document["quality"].values()))["tokens"]
    yield f"On {tokens} held-out tokens, in windows from an empty cache, against r1trt in FP32:"
    yield ""
    yield "| | perplexity | increase | KL, nats | agreement |"
    yield "|---|---:|---:|---:|---:|"
    for name, row in document["quality"].items():
        yield (
            f"| {name} | {row['perplexity_tested']:.3f} | {100 * row['perplexity_increase']:+.2f} % | "
            f"{row['kl_mean']:.5f} | {100 * row['agreement']:.2f} % |"
        )
    yield ""
