"""Experts that saw too few tokens of a calibration: found, told of, and given a scale that is safe.

All experts of a layer share one scale. What an expert would see that the text did not give it is not known,
so the scale of such a layer leaves room for it, whatever the method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.lowerings.inner_statistics import INNER_STATISTICS, ROUTED_TOKENS
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.add_probes import INPUT_SCALE, Probe
from r1trt.precision.checks import layer_nodes
from r1trt.text import ranges_text

MIN_EXPERT_TOKENS = 32
"""Fewer say little of what an expert's activations may be."""
MARGIN = 2.0
"""On the largest magnitude that was seen: one binary order of FP8's fifteen, which costs no precision but at
the small end."""
_LISTED = 16
"""Ranges of experts that a record of a layer names."""


@dataclass(frozen=True, kw_only=True)
class RareExperts:
    """The experts of one layer that saw fewer than `MIN_EXPERT_TOKENS` tokens.

    Attributes:
        layer: Plan key.
        tokens: How many each of them saw, by its index.
        experts: Experts of the layer.
    """

    layer: str
    tokens: Mapping[int, int]
    experts: int

    def __str__(self) -> str:
        return f"{len(self.tokens)} of {self.experts}: {ranges_text(list(self.tokens), _LISTED)}"


def counting_probes(model: ir.Model, probes: Sequence[Probe]) -> list[Probe]:
    """What counts the tokens of the experts of each layer that is measured inside."""
    nodes, found = layer_nodes(model), []
    for probe in probes:
        key = probe.layers[0]
        operator = layer_operator_of(nodes[key])
        if probe.scale == INPUT_SCALE or operator is None:
            continue
        if (operator.name, ROUTED_TOKENS) in INNER_STATISTICS:
            statistic = Statistic(amax=False, size=operator.spec_from_node(nodes[key]).num_experts)
            name = f"{key}/{ROUTED_TOKENS}"
            found.append(Probe(name=name, layers=(key,), scale=ROUTED_TOKENS, statistic=statistic))
    return found


def rare_experts(counts: Sequence[Probe], numbers: Mapping[str, NDArray[Any]]) -> list[RareExperts]:
    """The layers with such experts, from what the counting probes gave."""
    found = []
    for probe in counts:
        tokens_E = numbers[probe.name]
        few = {int(expert): int(tokens_E[expert]) for expert in np.flatnonzero(tokens_E < MIN_EXPERT_TOKENS)}
        if few:
            found.append(RareExperts(layer=probe.layers[0], tokens=few, experts=len(tokens_E)))
    return found


def rare_experts_line(rare: Sequence[RareExperts]) -> str:
    """All of them in one line."""
    fewest, layer, expert = min((n, item.layer, e) for item in rare for e, n in item.tokens.items())
    total, layers = sum(len(item.tokens) for item in rare), f"{len(rare)} layer{'s' * (len(rare) > 1)}"
    return (
        f"experts that saw fewer than {MIN_EXPERT_TOKENS} tokens: {total} in {layers} (expert {expert} of "
        f"{layer}: {fewest}); the scale inside such a layer is {MARGIN:g} times that of the largest "
        "magnitude; more --calibration-tokens of a longer --calibration reach more experts"
    )
