"""Which body each node of the three operators gets: one for each distinct spec, shared by equal nodes.

ONNX tells bodies of one operator apart by their `overload`: the first spec of a graph has "", the others "2",
"3" and so on in graph order. Operator types stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from types import MappingProxyType
from typing import Literal

import onnx_ir as ir

from r1trt.errors import ExportError
from r1trt.lowerings import onnxruntime, tensorrt_rtx
from r1trt.lowerings.builder import Lowering, operator_function
from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION
from r1trt.ops.registry import OPERATORS, operator_of

LoweringBackend = Literal["onnxruntime", "tensorrt-rtx"]

LOWERINGS: Mapping[LoweringBackend, Lowering] = MappingProxyType(
    {"onnxruntime": onnxruntime.LOWERING, "tensorrt-rtx": tensorrt_rtx.LOWERING}
)


def computes(backend: LoweringBackend, node: ir.Node) -> bool:
    """Whether a backend has a body for the types of an operator's node."""
    return LOWERINGS[backend].computes(OPERATORS[node.op_type].spec_from_node(node))


def set_bodies(model: ir.Model, *backends: LoweringBackend, leave: Collection[str] = ()) -> bool:
    """Give the three operators' nodes the bodies of their specs, in place of any that are there.

    Args:
        model: The graph, with types, and static sizes, on the operators' inputs; it is changed.
        backends: Whose bodies: each node gets that of the first one that computes in its types.
        leave: Names of nodes that get none.

    Returns:
        Whether any node got a body.

    Raises:
        ExportError: No backend has a body for a node's attributes or types.
    """
    for identifier in [key for key in model.functions if key[0] == DOMAIN and key[1] in OPERATORS]:
        del model.functions[identifier]
    overloads: dict[str, dict[Hashable, str]] = {name: {} for name in OPERATORS}
    nodes = [node for node in model.graph if operator_of(node) is not None and node.name not in leave]
    for node in nodes:
        backend, known = _backend_of(node, backends), overloads[node.op_type]
        spec: Hashable = OPERATORS[node.op_type].spec_from_node(node)
        if spec not in known:
            known[spec] = str(len(known) + 1) if known else ""
            _add(model, body_of_node(node, backend, known[spec]))
        node.overload = known[spec]
    return bool(nodes)


def body_of_node(node: ir.Node, backend: LoweringBackend, overload: str = "") -> ir.Function:
    """The body of one operator node under an `overload`. Raises ExportError where the backend has none."""
    operator = OPERATORS[node.op_type]
    make = LOWERINGS[backend].bodies[operator.name]
    spec = operator.spec_from_node(node)
    return operator_function(operator, make(spec), overload, operator.input_names(node))


def _backend_of(node: ir.Node, backends: tuple[LoweringBackend, ...]) -> LoweringBackend:
    for backend in backends:
        if computes(backend, node):
            return backend
    raise ExportError(
        f"No body of {node.op_type} computes in the types of this node.",
        where=f"node '{node.name}'",
        found=", ".join(str(value.dtype) for value in node.inputs if value is not None),
        expected=f"types that bodies of {' or '.join(backends)} take",
        fix="type the layer as FP32, or build for another backend",
    )


def _add(model: ir.Model, body: ir.Function) -> None:
    model.functions[body.identifier()] = body
    model.graph.opset_imports.setdefault(DOMAIN, DOMAIN_VERSION)
    for domain, version in body.opset_imports.items():
        model.graph.opset_imports.setdefault(domain, version)
