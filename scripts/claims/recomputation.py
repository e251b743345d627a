"""Peak memory of a training step with and without recomputation, up to a model of 175 billion parameters.

Bytes of all tensors that are alive at once, counted by the operators that make them. Small models run; the
large one runs on tensors that have shapes and no memory (`FakeTensorMode`), which is the memory model: on
the small ones it counts the same to the byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from claims.dense import dense_config, use_kernel_attention
from claims.row import Options, Row, figure_of, save_figure
from claims.runs import Run
from r1trt.finetune.memory import peak_bytes
from r1trt.model import R1AsaForCausalLM

NAME = "recomputation"
CLAIMED_BYTES = (1.2e12, 0.68e12)
KEPT: Mapping[str, tuple[int, ...] | None] = {"all": None, "article": (-3, -2), "none": ()}
"""Layers that keep their activations; None: all."""
Held = tuple[dict[str, Any], list[float], list[float]]
ADAMW_BYTES = 12  # of a parameter: the FP32 master and two moments
CARDS_BYTES = 8 * 80 * 10**9


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """One step of a dense model.

    Attributes:
        num_layers: Decoder layers.
        hidden_size: Width.
        num_heads: Heads of queries, keys and values.
        width: Of the MLP.
        vocab_size: Tokens.
        tokens: Of a sequence.
        batch: Sequences.
        kept: Key of KEPT.
        scores: Attention by its definition, which keeps all scores, rather than by a kernel that keeps none.
        fake: On tensors without memory.
        backward: A training step; else inference, which keeps nothing anyway.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    width: int
    vocab_size: int
    tokens: int
    batch: int
    kept: str = "all"
    scores: bool = False
    fake: bool = False
    backward: bool = True

    @property
    def recomputed(self) -> frozenset[int]:
        """Layers that keep nothing but their input."""
        kept = KEPT[self.kept]
        every = range(self.num_layers)
        return frozenset() if kept is None else frozenset(every) - {i % self.num_layers for i in kept}


SMALL = tuple(
    StepConfig(
        num_layers=layers, hidden_size=hidden, num_heads=hidden // 32, width=8 * hidden // 3 // 16 * 16,
        vocab_size=512, tokens=256, batch=4,
    )
    for layers, hidden in ((4, 128), (8, 128), (16, 128), (8, 256))
)  # fmt: skip
# The shape of GPT-3, with SwiGLU's three matrices of 8/3 the width in place of two of four times it.
LARGE = StepConfig(
    num_layers=96, hidden_size=12288, num_heads=96, width=32768, vocab_size=50304, tokens=2048, batch=1,
    fake=True,
)  # fmt: skip
BATCHES = (1, 4, 7, 8, 16, 32)


def steps(*, reduced: bool) -> list[StepConfig]:
    """All steps: small ones, run and counted; large ones, counted."""
    small = SMALL[:1] if reduced else SMALL
    large = [replace(LARGE, num_layers=4)] if reduced else [replace(LARGE, batch=batch) for batch in BATCHES]
    if not reduced:
        large.append(replace(LARGE, scores=True))
    found = [replace(step, kept=kept, fake=fake) for step in small for fake in (False, True) for kept in KEPT]
    # A large step takes half a minute: the article's two layers and none differ by little.
    found += [replace(step, kept=kept) for step in large for kept in ("all", "article")]
    return [*found, replace(large[0], backward=False)]


def measure(options: Options) -> dict[str, Any]:
    """Measures every step that does not stand yet."""
    found = []
    for step in steps(reduced=options.reduced):
        run = Run(row=NAME, variant=_name(step), config=asdict(step))
        record = options.store.record(run, partial(step_bytes, step))
        if record is not None:
            found.append({**asdict(step), **record["result"], "seconds": record["seconds"]})
    return {
        "claimed_bytes": CLAIMED_BYTES,
        "cards_bytes": CARDS_BYTES,
        "steps": found,
        "counted_as_measured": _agrees(found),
    }


def _name(step: StepConfig) -> str:
    kind = "counted" if step.fake else "measured"
    attention = "-scores" if step.scores else ""
    how = f"keep-{step.kept}" if step.backward else "inference"
    return f"{kind}-{step.num_layers}x{step.hidden_size}-batch{step.batch}{attention}-{how}"


def step_bytes(step: StepConfig) -> dict[str, int]:
    """Parameters of a model, and bytes of a step's peak beyond its BF16 weights: activations, gradients."""
    with FakeTensorMode() if step.fake else nullcontext():
        module = _module(step)
        ids_BS = torch.zeros(step.batch, step.tokens + 1, dtype=torch.int64)
        peak = peak_bytes(partial(_step if step.backward else _read, module, ids_BS))
        return {"parameters": sum(p.numel() for p in module.parameters()), "peak_bytes": peak}


def _module(step: StepConfig) -> R1AsaForCausalLM:
    config = dense_config(
        vocab_size=step.vocab_size, hidden_size=step.hidden_size, intermediate_size=step.width,
        num_hidden_layers=step.num_layers, num_attention_heads=step.num_heads,
        num_key_value_heads=step.num_heads, max_position_embeddings=step.tokens,
    )  # fmt: skip
    with _default_dtype(torch.bfloat16):
        module = R1AsaForCausalLM(config)
        if not step.scores:
            use_kernel_attention(module)
    module.recomputed = step.recomputed
    return module


def _step(module: R1AsaForCausalLM, ids_BS: torch.Tensor) -> None:
    logits = module(ids_BS[:, :-1]).flatten(0, 1)
    torch.autograd.backward(F.cross_entropy(logits.float(), ids_BS[:, 1:].flatten()))


@torch.no_grad()
def _read(module: R1AsaForCausalLM, ids_BS: torch.Tensor) -> None:
    module(ids_BS[:, :-1])


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _agrees(found: list[dict[str, Any]]) -> bool:
    """Whether every step that ran took the bytes that were counted for it."""
    ignored = ("fake", "peak_bytes", "seconds")
    counted = {_key(step, ignored): step["peak_bytes"] for step in found if step["fake"]}
    return all(
        counted.get(_key(step, ignored), step["peak_bytes"]) == step["peak_bytes"]
        for step in found
        if not step["fake"]
    )


def _key(step: Mapping[str, Any], ignored: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(value for name, value in step.items() if name not in ignored)


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    before, after = (size / 1e12 for size in document["claimed_bytes"])
    same = "agree to the byte" if document["counted_as_measured"] else "**do not agree**"
    lines = [
        f"The article: {before:g} TB to {after:g} TB, {after / before - 1:+.0%}, for 175 billion parameters. "
        "Weights, activations and gradients in BF16; a step of 2,048 tokens a sequence;",
        "attention by a kernel that keeps no scores, except where it says so. `article` keeps the "
        "activations of layers -3 and -2, as its code does; `none` of no layer.",
        f"Measured and counted bytes of the small models {same}. GB beyond the weights:",
        "",
        "| model | sequences | keep all | article | none | saved by article |",
        "|---|---:|---:|---:|---:|---:|",
        *_rows(document["steps"], fake=False),
        *_rows(document["steps"], fake=True),
        "",
        "The large model with what else a device holds, GB:",
        "",
        "| sequences | weights | weights + step, keep all | article | saved | + AdamW, keep all | article | "
        "saved |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
        *_totals(document["steps"]),
    ]
    return "\n".join([*lines, "", *_inference(document)])


def _rows(steps: list[dict[str, Any]], *, fake: bool) -> Iterator[str]:
    for step, peaks in _by_policy(steps):
        if step["fake"] != fake or (fake and step["hidden_size"] != LARGE.hidden_size):
            continue
        name = (
            f"{step['num_layers']} layers of {step['hidden_size']}, {step['parameters'] / 1e6:,.1f} million"
        )
        name += ", scores kept" if step["scores"] else ""
        cells = [f"{peaks[kept] / 1e9:,.3f}" if kept in peaks else "" for kept in KEPT]
        saved = f"{1 - peaks['article'] / peaks['all']:.0%}"
        how = "counted" if fake else "measured"
        yield f"| {name}, {how} | {step['batch']} | {' | '.join(cells)} | {saved} |"


def _by_policy(steps: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, int]]]:
    """Steps that differ in nothing but what is kept, and their peaks, where both have run."""
    ignored = ("kept", "peak_bytes", "seconds")
    found: dict[tuple[Any, ...], dict[str, int]] = {}
    first: dict[tuple[Any, ...], dict[str, Any]] = {}
    for step in steps:
        if step["backward"]:
            found.setdefault(_key(step, ignored), {})[step["kept"]] = step["peak_bytes"]
            first.setdefault(_key(step, ignored), step)
    yield from ((first[key], peaks) for key, peaks in found.items() if {"all", "article"} <= peaks.keys())


def totals(steps: list[dict[str, Any]]) -> Iterator[Held]:
    """Of the large model: a step, bytes with weights, and with AdamW's state too; `all`, then `article`."""
    for step, peaks in _by_policy(steps):
        if step["fake"] and step["hidden_size"] == LARGE.hidden_size and not step["scores"]:
            weights, adamw = 2 * step["parameters"], ADAMW_BYTES * step["parameters"]
            held = [weights + peaks[kept] for kept in ("all", "article")]
            yield step, held, [size + adamw for size in held]


def _totals(steps: list[dict[str, Any]]) -> Iterator[str]:
    for step, held, trained in totals(steps):
        cells = [
            f"{before / 1e9:,.0f} | {after / 1e9:,.0f} | {1 - after / before:.0%}"
            for before, after in (held, trained)
        ]
        weights = f"{2 * step['parameters'] / 1e9:,.0f}"
        yield f"| {step['batch']} | {weights} | {' | '.join(cells)} |"


def _inference(document: Mapping[str, Any]) -> Iterator[str]:
    for step in document["steps"]:
        if not step["backward"]:
            weights = 2 * step["parameters"]
            yield (
                f"Inference of one sequence holds {(weights + step['peak_bytes']) / 1e9:,.0f} GB, "
                f"{weights / 1e9:,.0f} of them weights: no backward pass, and nothing to recompute. "
                f"Eight cards of 80 GB are {document['cards_bytes'] / 1e9:,.0f} GB."
            )


def draw(document: Mapping[str, Any], path: Path) -> None:
    """What the large model holds over the sequences of a step, with the article's two numbers."""
    figure, axes = figure_of(2)
    found = list(totals(document["steps"]))
    batches = [step["batch"] for step, _, _ in found]
    titles = ("weights, gradients, activations", "the same with AdamW's state")
    held, trained = [row[1] for row in found], [row[2] for row in found]
    for axis, title, bytes_of in zip(axes, titles, (held, trained), strict=True):
        for place, label in enumerate(("keep all", "keep layers -3 and -2")):
            axis.plot(batches, [pair[place] / 1e12 for pair in bytes_of], "o-", label=label)
        for claimed in document["claimed_bytes"]:
            axis.axhline(claimed / 1e12, color="black", linestyle="--", linewidth=0.8)
        axis.set(xlabel="sequences of 2,048 tokens", ylabel="TB", title=title, ylim=(0, None))
        axis.legend()
    save_figure(figure, path)


ROW = Row(name=NAME, measure=measure, page=page, draw=draw)
