"""Sizes as constants, or asked of the graph's inputs once."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from passes.hand_made import HandMade, normal, outputs_of

from r1trt.passes.known_sizes import KnownSizesPass
from r1trt.passes.pipeline import run_passes

INT64 = ir.DataType.INT64


def size(graph: HandMade, name: str, value: ir.Value, start: int, end: int) -> ir.Value:
    return graph.node("Shape", name, [value], [end - start], domain="", dtype=INT64, start=start, end=end)


def test_known_sizes_are_constants_or_asked_once() -> None:
    graph = HandMade()
    x, past = graph.input("x", ["B", "S", 6]), graph.input("past", ["B"], INT64)
    shape = graph.weight("heads", np.array([0, 0, 2, 3]))
    heads = graph.node("Reshape", "reshape", [x, shape], ["B", "S", 2, 3], domain="")
    turned = graph.node("Transpose", "turn", [heads], ["B", 2, "S", 3], domain="", perm=[0, 2, 1, 3])
    sizes = [size(graph, f"size{axis}", turned, axis, axis + 1) for axis in range(4)]
    again = size(graph, "again", heads, 1, 2)
    joined = graph.node("Concat", "join", [*sizes, again, past], ["n"], domain="", dtype=INT64, axis=0)
    graph.output(joined, "y")
    graph.output(turned, "turned")
    model = graph.model()
    known = run_passes(model, [KnownSizesPass()])
    names = sorted(str(node.name) for node in known.graph)
    assert names == ["join", "reshape", "size.B", "size.S", "turn"]
    assert {name for name in known.graph.initializers if name.startswith("size.")} == {"size.2", "size.3"}
    for batch, tokens in ((1, 1), (3, 5)):
        feeds = {"x": normal(0, batch, tokens, 6), "past": np.arange(batch)}
        np.testing.assert_array_equal(outputs_of(known, feeds)["y"], outputs_of(model, feeds)["y"])


def test_sizes_that_nothing_states_stay() -> None:
    """Of a value without a shape, of a size that is no input's, of several axes, and an input's own."""
    graph = HandMade()
    x = graph.input("x", ["B", 4])
    chosen = graph.node("NonZero", "chosen", [x], [2, "n"], domain="", dtype=INT64)
    parts = [size(graph, "of_n", chosen, 1, 2), size(graph, "both", x, 0, 2), size(graph, "own", x, 0, 1)]
    bare = graph.node("Abs", "bare", [x], ["B", 4], domain="")
    bare.shape = None
    parts.append(size(graph, "of_bare", bare, 0, 1))
    graph.output(graph.node("Concat", "join", parts, [5], domain="", dtype=INT64, axis=0), "y")
    model = graph.model()
    assert [node.name for node in run_passes(model, [KnownSizesPass()]).graph] == [
        node.name for node in model.graph
    ]
