"""A graph, without its external data."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.graph.functions import function_label
from r1trt.graph.load import model_from_onnx_file
from r1trt.inspect.summary import LAYER, Summary, Table

_CACHE = re.compile(r"(_cache(?:_out)?)\.\d+$")
_PORTS = ("", "name", "type", "shape", "count")


def summary_of_onnx(path: Path) -> Summary:
    """Summarizes a graph's file.

    Raises:
        ExportError: It is damaged.
    """
    model = model_from_onnx_file(path)
    facts = {"file bytes": path.stat().st_size, **graph_facts(model)}
    return Summary(kind="onnx", path=path, facts=facts, tables=graph_tables(model))


def graph_facts(model: ir.Model) -> dict[str, Any]:
    """Counts of a graph's parts."""
    layers = Counter(found[1] for node in model.graph if (found := LAYER.match(node.name or "")))
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value]
    return {
        "opsets": ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in model.opset_imports.items()),
        "nodes": len(model.graph),
        "layers": len(layers),
        "nodes a layer": _range_text(layers.values()),
        "functions": ", ".join(sorted(map(function_label, model.functions.values()))),
        "initializers": len(weights),
        "initializer bytes": sum(weight.nbytes for weight in weights),
        "external initializers": sum(isinstance(weight, ir.ExternalTensor) for weight in weights),
    }


def _range_text(counts: Iterable[int]) -> str:
    counts = set(counts)
    if not counts:
        return "none"
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def graph_tables(model: ir.Model) -> list[Table]:
    """A graph's inputs and outputs, and its operators."""
    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph
    )
    ports = [("input", value) for value in model.graph.inputs]
    ports += [("output", value) for value in model.graph.outputs]
    # The caches of all layers are one row.
    rows = Counter(
        (
            kind,
            _CACHE.sub(r"\1.*", value.name or ""),
            value.dtype.name if value.dtype else "?",
            str(value.shape or "?"),
        )
        for kind, value in ports
    )
    return [
        Table(title="Inputs and outputs", header=_PORTS, rows=[(*row, n) for row, n in rows.items()]),
        Table(title="Operators", header=("operator", "nodes"), rows=operators.most_common()),
    ]
