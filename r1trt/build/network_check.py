"""The precision plan against the parsed network: what was asked for each layer, what the builder was given.

A plan is a wish until it is read back: builders take a scale's type for a result's, or drop an input, without
a word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from r1trt.errors import BuildError
from r1trt.graph.network_view import LayerParts, NetworkLayer, NetworkView, ReadBack, Types, output_type
from r1trt.ops.layer_precision import IMPLEMENTATIONS, LayerPrecision
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.text import listing

Verdict = Literal["obeyed", "disobeyed", "unverified"]
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """One layer of the plan.

    Attributes:
        name: The plan's key.
        op: Operator type.
        asked: Types that the plan asks for, by part, and whether a plugin is to compute it.
        found: What the network has, by the same parts.
        verdict: Whether they agree; "unverified" where they agree and a fused kernel decides the rest.
        executed: Operand and result types of the layer's products in the built engines; empty where their
            text does not show any.
    """

    name: str
    op: str
    asked: Types
    found: Types
    verdict: Verdict
    executed: tuple[str, ...] = ()

    @property
    def chooses(self) -> bool:
        """Whether the layer can be TensorRT's own or a plugin."""
        return "implementation" in self.asked


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """The whole comparison.

    Attributes:
        layers: One entry for each layer of the plan.
        network_layers: Number of layers in the network.
        executed: Products as the built plan spells them, where that could be read; evidence, not a check.
    """

    layers: tuple[LayerCheck, ...]
    network_layers: int
    executed: Mapping[str, Any] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> int:
        """Number of layers with that verdict."""
        return sum(layer.verdict == verdict for layer in self.layers)

    def summary(self) -> dict[str, int]:
        """For a manifest."""
        verdicts: tuple[Verdict, ...] = ("obeyed", "disobeyed", "unverified")
        made = Counter(layer.found["implementation"] for layer in self.layers if layer.chooses)
        return (
            {"network_layers": self.network_layers}
            | {verdict: self.count(verdict) for verdict in verdicts}
            | {"executed": sum(bool(layer.executed) for layer in self.layers)}
            | {implementation: made[implementation] for implementation in IMPLEMENTATIONS if made}
        )

    def to_json(self) -> dict[str, Any]:
        """For `layers.json`."""
        return asdict(self) | {"summary": self.summary()}


def check_network(layers: Sequence[NetworkLayer], plan: PrecisionPlan) -> NetworkReport:
    """Compare a network with a plan.

    Args:
        layers: What `layers_of_network` read.
        plan: The plan that its graph was typed by.
    """
    network = NetworkView(layers, list(plan.layers))
    checks = tuple(_check(network, key, layer) for key, layer in plan.layers.items())
    return NetworkReport(layers=checks, network_layers=len(layers))


def require_obeyed(report: NetworkReport) -> None:
    """Refuse a network that does not hold what the plan asks for.

    Raises:
        BuildError: Lists each layer with what was asked and found.
    """
    bad = [layer for layer in report.layers if layer.verdict == "disobeyed"]
    if not bad:
        return
    lines = [line for layer in bad[:_LISTED] for line in _disagreement(layer)]
    if len(bad) > _LISTED:
        lines.append(f"... and {len(bad) - _LISTED} more")
    raise BuildError(
        f"The network disobeys the precision plan in {len(bad)} of {len(report.layers)} layers.",
        found=listing(lines, limit=None),
        fix="this is a fault of the toolchain or of the builder's version; build with --bf16 "
        "meanwhile, or with other --plugins where it is an implementation",
    )


def _disagreement(layer: LayerCheck) -> Iterator[str]:
    for part, asked in layer.asked.items():
        found = layer.found.get(part, "nothing")
        if found != asked:
            yield f"{layer.name} ({layer.op}): {part} asked {asked}, found {found}"


def _types(parts: LayerParts, layer: LayerPrecision) -> ReadBack:
    if parts.plugin is None:
        return operator_of_layer(layer).read_back(parts, layer)
    return ReadBack({"output": layer.output}, {"output": output_type(parts.plugin)})


def _check(network: NetworkView, key: str, layer: LayerPrecision) -> LayerCheck:
    parts = network.parts(key)
    asked, found = _types(parts, layer)
    if layer.implementation is not None:
        asked = {"implementation": layer.implementation, **asked}
        found = {"implementation": "native" if parts.plugin is None else "plugin", **found}
    verdict: Verdict = "obeyed" if asked == found else "disobeyed"
    if verdict == "obeyed" and (layer.internals == "unverified" or parts.plugin is not None):
        verdict = "unverified"
    return LayerCheck(name=key, op=layer.op, asked=asked, found=found, verdict=verdict)
