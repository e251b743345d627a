"""The precision plan against the parsed network: what was asked for each layer, what the builder was given.

A plan is a wish until it is read back: builders take a scale's type for a result's, or drop an input, without
a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from r1trt.errors import BuildError
from r1trt.precision.plan import LayerPrecision, PrecisionPlan

Verdict = Literal["obeyed", "disobeyed", "unverified"]
NetworkLayer = Mapping[str, Any]
Types = Mapping[str, str]

_NAMES = {"FLOAT": "fp32", "BF16": "bf16", "HALF": "fp16", "FP8": "fp8_e4m3"}
# They hand on what they get; a transposed or reshaped dequantization still feeds an FP8 product.
_TRANSPARENT = frozenset({"SHUFFLE", "UNSQUEEZE", "SQUEEZE", "IDENTITY"})
_PRODUCT = "MATRIX_MULTIPLY"
_LISTED = 20


@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """One layer of the plan.

    Attributes:
        name: The plan's key.
        op: Operator type.
        asked: Types that the plan asks for, by part.
        found: Types in the network, by the same parts.
        verdict: Whether they agree; "unverified" where they agree and a fused kernel decides the rest.
    """

    name: str
    op: str
    asked: Types
    found: Types
    verdict: Verdict


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
        return {"network_layers": self.network_layers} | {
            verdict: self.count(verdict) for verdict in verdicts
        }

    def to_json(self) -> dict[str, Any]:
        """For `layers.json`."""
        return asdict(self) | {"summary": self.summary()}


class _Network:
    """The network's layers by plan key, and who made which tensor."""

    def __init__(self, layers: Sequence[NetworkLayer], keys: Sequence[str]) -> None:
        self._producers = {name: layer for layer in layers for name, _ in layer["outputs"]}
        self.by_key: dict[str, list[NetworkLayer]] = {key: [] for key in keys}
        for layer in layers:
            key = plan_key(layer["node"], self.by_key)
            if key is not None:
                self.by_key[key].append(layer)

    def operand(self, tensor: Sequence[str]) -> str:
        """Type that a product reads: the quantized one where a dequantization stands in front of it."""
        name, dtype = tensor
        producer = self._producers.get(name)
        if producer is None:
            return _name(dtype)
        if producer["type"] in _TRANSPARENT:
            return self.operand(producer["inputs"][0])
        if producer["type"] == "DEQUANTIZE":
            return _name(producer["inputs"][0][1])
        return _name(dtype)


def plan_key(node: str | None, keys: Mapping[str, object]) -> str | None:
    """The plan's key that a node belongs to: its own name, or a prefix up to a "/"."""
    while node:
        if node in keys:
            return node
        node = node.rpartition("/")[0]
    return None


def check_network(layers: Sequence[NetworkLayer], plan: PrecisionPlan) -> NetworkReport:
    """Compare a network with a plan.

    Args:
        layers: What `layers_of_network` read.
        plan: The plan that its graph was typed by.
    """
    network = _Network(layers, list(plan.layers))
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
        found="\n    ".join(["", *lines]),
        fix="this is a fault of the toolchain or of the builder's version; build with --bf16 meanwhile",
    )


def _disagreement(layer: LayerCheck) -> Iterator[str]:
    for part, asked in layer.asked.items():
        found = layer.found.get(part, "nothing")
        if found != asked:
            yield f"{layer.name} ({layer.op}): {part} asked {asked}, found {found}"


def _check(network: _Network, key: str, layer: LayerPrecision) -> LayerCheck:
    parts = network.by_key[key]
    plugin = next((part for part in parts if part["type"].startswith("PLUGIN")), None)
    if plugin is None:
        asked, found = _READERS[layer.op](network, parts, layer)
    else:
        asked, found = _plugin(plugin, layer)
    verdict: Verdict = "obeyed" if asked == found else "disobeyed"
    if verdict == "obeyed" and (layer.internals == "unverified" or plugin is not None):
        verdict = "unverified"
    return LayerCheck(name=key, op=layer.op, asked=asked, found=found, verdict=verdict)


def _name(dtype: str) -> str:
    return _NAMES.get(dtype, dtype.lower())


def _output(layer: NetworkLayer) -> str:
    return _name(layer["outputs"][0][1])


def _of_type(parts: Sequence[NetworkLayer], *types: str) -> list[NetworkLayer]:
    return [part for part in parts if part["type"] in types]


def _common(types: Sequence[str]) -> str:
    return " and ".join(sorted(set(types))) or "nothing"


def _product_types(network: _Network, products: Sequence[NetworkLayer]) -> Types:
    sides = [[network.operand(tensor) for tensor in product["inputs"][:2]] for product in products]
    return {
        "input": _common([side[0] for side in sides]),
        "weight": _common([side[1] for side in sides]),
        "output": _common([_output(product) for product in products]),
    }


def _asked_of_product(layer: LayerPrecision) -> Types:
    product_output = layer.output if layer.quantizes_input else layer.input
    return {"input": layer.input, "weight": str(layer.weight), "output": product_output}


def _plugin(plugin: NetworkLayer, layer: LayerPrecision) -> tuple[Types, Types]:
    return {"output": layer.output}, {"output": _output(plugin)}


def _linear(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    return _asked_of_product(layer), _product_types(network, _of_type(parts, _PRODUCT))


def _moe(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    """The router's product comes first, in FP32; the experts' follow."""
    products = _of_type(parts, _PRODUCT)
    router = _product_types(network, products[:1])
    found = {**_product_types(network, products[1:]), "router": _common(list(router.values()))}
    return {**_asked_of_product(layer), "router": "fp32"}, found


def _gate(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    found = _product_types(network, _of_type(parts, _PRODUCT))
    return {"product": "fp32", "output": layer.output}, {
        "product": _common(list(found.values())),
        "output": _common([_output(part) for part in _of_type(parts, "ACTIVATION")]),
    }


def _norm(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    inner = _of_type(parts, "ELEMENTWISE", "REDUCE", "UNARY", "NORMALIZATION")
    types = [_name(dtype) for part in inner for _, dtype in (*part["inputs"], *part["outputs"])]
    return {"arithmetic": "fp32"}, {"arithmetic": _common(types)}


def _embedding(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    gathers = _of_type(parts, "GATHER")
    return {"weight": str(layer.weight)}, {"weight": _common([_output(part) for part in gathers])}


def _pointwise(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    inner = _of_type(parts, "ELEMENTWISE", "ACTIVATION", "UNARY")
    return {"arithmetic": layer.input}, {"arithmetic": _common([_output(part) for part in inner])}


def _rope(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    rotations = [_output(part) for part in _of_type(parts, "ROTARY_EMBEDDING")]
    outputs = [_output(part) for part in parts[-1:]]
    return {"rotation": "fp32", "output": layer.output}, {
        "rotation": _common(rotations),
        "output": _common(outputs),
    }


def _attention(network: _Network, parts: list[NetworkLayer], layer: LayerPrecision) -> tuple[Types, Types]:
    """Types at its border and of its caches; a fused kernel decides what it computes in."""
    output = _common([_output(part) for part in parts[-1:]])
    caches = [_output(part) for part in _of_type(parts, "KV_CACHE_UPDATE")]
    if not caches:
        return {"output": layer.output}, {"output": output}
    return {"output": layer.output, "cache": layer.input}, {"output": output, "cache": _common(caches)}


_Reader = Callable[[_Network, list[NetworkLayer], LayerPrecision], tuple[Types, Types]]

_READERS: Mapping[str, _Reader] = {
    "R1Embedding": _embedding,
    "R1RMSNorm": _norm,
    "R1Linear": _linear,
    "R1LinearBias": _linear,
    "R1LambdaGate": _gate,
    "R1SwiGLU": _pointwise,
    "Add": _pointwise,
    "R1DynamicRoPE": _rope,
    "R1HLAAttention": _attention,
    "R1DynamicMoE": _moe,
}
