"""Forms of a graph that the builders crash on, drop in silence or compute wrongly, one rule each.

Each was measured with TensorRT-RTX 1.7, or is a limit that NVIDIA documents; `tensorrt` is spared where
a full TensorRT is known to do better.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir

from r1trt.arch import FP8_MIN_SM, Backend
from r1trt.ops.registry import OPERATORS
from r1trt.text import listing

FLOAT = ir.DataType.FLOAT
FP8 = frozenset({ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2})
# Who may read an FP8 tensor; everything else is refused by the builder, late.
_FP8_READERS = frozenset(
    {"DequantizeLinear", "Concat", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity"}
)
_VIEWS = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity"})
_DATA_DEPENDENT = frozenset({"NonZero", "Loop", "Scan", "Unique", "Compress"})
_STANDARD_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True, kw_only=True)
class Trap:
    """One place of a graph that a builder would stumble over.

    Attributes:
        where: Type and name of the node, or the name of the value.
        reason: What is wrong with it.
    """

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where} {self.reason}"


Rule = Callable[[ir.Graph], Iterator[Trap]]


def listed(traps: Sequence[Trap]) -> str:
    """The first traps, a line each, for an error."""
    return listing([str(trap) for trap in traps])


def typing_traps(model: ir.Model) -> list[Trap]:
    """What is wrong with a typed graph whoever builds it; its operators may be calls without a body."""
    return _found(model.graph, (_untyped_values, *_RULES))


def builder_traps(model: ir.Model, backend: Backend, sms: Sequence[int]) -> list[Trap]:
    """What is wrong with a graph whose bodies are inlined, for one builder.

    Args:
        model: What the parser would get.
        backend: "tensorrt" or "tensorrt-rtx".
        sms: Compute capabilities that it would be built for.
    """
    rules = (*_RULES, *_NATIVE_RULES, *(_RTX_RULES if backend == "tensorrt-rtx" else ()))
    return [
        *_found(model.graph, rules),
        *_unknown_operators(model, backend),
        *_fp8_below_minimum(model.graph, sms),
    ]


def _found(graph: ir.Graph, rules: Iterable[Rule]) -> list[Trap]:
    return [trap for rule in rules for trap in rule(graph)]


def _trap(node: ir.Node, reason: str) -> Trap:
    return Trap(where=f"{node.op_type} '{node.name}'", reason=reason)


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _int_attribute(node: ir.Node, name: str) -> int:
    attribute = node.attributes.get(name)
    return 0 if attribute is None else attribute.as_int()


def _nodes(graph: ir.Graph, *op_types: str) -> Iterator[ir.Node]:
    for node in graph.all_nodes():
        if node.op_type in op_types and node.domain in _STANDARD_DOMAINS:
            yield node


# ---------------------------------------------------------------- every graph


def _untyped_values(graph: ir.Graph) -> Iterator[Trap]:
    made = (output for node in graph for output in node.outputs)
    for value in [*graph.inputs, *graph.initializers.values(), *made]:
        for what in ("type", "shape"):
            if getattr(value, what) is None:
                yield Trap(where=f"value '{value.name}'", reason=f"has no {what}")


def _quantization_types(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "QuantizeLinear", "DequantizeLinear"):
        scale = _input(node, 1)
        if scale is not None and scale.dtype not in (FLOAT, None):
            yield _trap(node, f"has {scale.dtype} scales; they round by up to 0.4 %, use FLOAT")
        if "output_dtype" not in node.attributes:
            yield _trap(node, "does not say its output type (output_dtype); builders then take the scale's")


def _blocked_weights(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "DequantizeLinear"):
        if _int_attribute(node, "block_size") and _meets_quantized_activation(node.outputs[0]):
            yield _trap(
                node,
                "has blocked weight scales and meets quantized activations: RTX 1.7 miscomputes that; "
                "use one scale, or one a row",
            )


def _meets_quantized_activation(value: ir.Value) -> bool:
    for user, _ in value.uses():
        if user.op_type in _VIEWS and _meets_quantized_activation(user.outputs[0]):
            return True
        if user.op_type == "MatMul" and any(_is_quantized_activation(item) for item in user.inputs):
            return True
    return False


def _is_quantized_activation(value: ir.Value | None) -> bool:
    node = None if value is None else value.producer()
    if node is None:
        return False
    if node.op_type in _VIEWS:
        return _is_quantized_activation(node.inputs[0])
    if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
        return False
    quantizer = node.inputs[0].producer()
    return quantizer is not None and quantizer.op_type == "QuantizeLinear"


def _fp8_readers(graph: ir.Graph) -> Iterator[Trap]:
    for node in graph.all_nodes():
        if node.op_type in OPERATORS or node.op_type in _FP8_READERS:
            continue
        for value in node.inputs:
            if value is not None and value.dtype in FP8:
                reason = f"reads the FP8 tensor '{value.name}'; only Q/DQ, Concat and shape changes may"
                yield _trap(node, reason)


# ---------------------------------------------------------------- attention of TensorRT's own


def _shared_attention_inputs(graph: ir.Graph) -> Iterator[Trap]:
    users: dict[int, ir.Node] = {}
    for node in _nodes(graph, "Attention"):
        for index, what in enumerate(("query", "key")):
            value = _input(node, index)
            if value is None:
                continue
            other = users.setdefault(id(value), node)
            if other is not node:
                yield _trap(node, f"shares its {what} with '{other.name}'; the builder dies of SIGSEGV")


def _attention_forms(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "Attention"):
        if _input(node, 6) is not None:
            yield _trap(node, "has nonpad_kv_seqlen, which is ignored in silence; use a mask")
        if _int_attribute(node, "is_causal") and _input(node, 3) is not None:
            yield _trap(node, "has is_causal and a mask; fold causality into the mask")
        if _input(node, 4) is not None or _input(node, 5) is not None:
            yield _trap(node, "has past keys or values; update a cache with TensorScatter")
        softcap = node.attributes.get("softcap")
        if softcap is not None and softcap.as_float():
            yield _trap(node, "has a softcap, which the parser refuses")


def _cache_updates(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "TensorScatter"):
        cache, mode = node.inputs[0], node.attributes.get("mode")
        if cache is None or cache.shape is None or not isinstance(cache.shape[-2], int):
            yield _trap(node, "updates a cache without a static capacity")
        if mode is not None and mode.as_string() != "linear":
            yield _trap(node, f"updates a cache in mode '{mode.as_string()}'")
        if cache is None or not cache.is_graph_input() or not node.outputs[0].is_graph_output():
            # https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/operators/KVCacheUpdate.html
            yield _trap(node, "updates a cache that is not an input and an output of the graph")


# ---------------------------------------------------------------- TensorRT-RTX


def _quantized_attention(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "Attention"):
        if any(_is_quantized_activation(_input(node, index)) for index in range(3)):
            reason = "has Q/DQ in front of it: rounded to FP8 and computed in BF16; leave them out"
            yield _trap(node, reason)


def _blocked_integers(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, "DequantizeLinear"):
        weight = _input(node, 0)
        if _int_attribute(node, "block_size") and weight is not None and weight.dtype == ir.DataType.INT8:
            reason = "has INT8 in blocks, which is widened in memory at every call; use one scale a row"
            yield _trap(node, reason)


def _data_dependent(graph: ir.Graph) -> Iterator[Trap]:
    for node in _nodes(graph, *_DATA_DEPENDENT):
        yield _trap(node, "depends on data in its shape or count, for which TensorRT-RTX has no plugin")
    for node in _nodes(graph, "ScatterElements", "ScatterND"):
        reduction = node.attributes.get("reduction")
        if reduction is not None and reduction.as_string() != "none":
            yield _trap(node, f"scatters with reduction '{reduction.as_string()}'")


# ---------------------------------------------------------------- one builder, one GPU


def _unknown_operators(model: ir.Model, backend: Backend) -> Iterator[Trap]:
    """Everything that is no ONNX operator is looked up as a plugin, by its type alone."""
    version = model.graph.opset_imports.get("", 1)
    for node in model.graph.all_nodes():
        if node.domain in _STANDARD_DOMAINS and onnx.defs.has(node.op_type, version, ""):
            continue
        if backend == "tensorrt" and node.op_type in OPERATORS:
            continue
        yield _trap(node, f"would be looked up as a plugin, and {backend} has none of that name here")


def _fp8_below_minimum(graph: ir.Graph, sms: Sequence[int]) -> Iterator[Trap]:
    low = [f"SM{sm}" for sm in sms if sm < FP8_MIN_SM]
    if not low:
        return
    for name, value in graph.initializers.items():
        if value.dtype in FP8:
            yield Trap(
                where=f"weight '{name}'", reason=f"is FP8, which no builder takes for {', '.join(low)}"
            )
            return
    for node in _nodes(graph, "QuantizeLinear"):
        if ir.DataType(_int_attribute(node, "output_dtype")) in FP8:
            yield _trap(node, f"makes FP8, which no builder takes for {', '.join(low)}")
            return


_RULES: Sequence[Rule] = (_quantization_types, _blocked_weights, _fp8_readers)
# What NVIDIA documents of these layers, or its RTX builder shows, is kept for the full TensorRT too.
_NATIVE_RULES: Sequence[Rule] = (_shared_attention_inputs, _attention_forms, _cache_updates)
_RTX_RULES: Sequence[Rule] = (_data_dependent, _quantized_attention, _blocked_integers)
