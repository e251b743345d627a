"""Which values of a graph hold the results of the decoder's layers."""

from __future__ import annotations

from pathlib import Path

from r1trt.evaluate.models import layer_output
from r1trt.graph.outputs import onnx_from_file


def layer_values(path: Path, num_layers: int) -> dict[str, str]:
    """Find the values of a graph that hold the layers' results.

    A typed graph's nodes are named `<layer's name>/<what>`; its simulation rounds such a value and keeps the
    value's name for the rounded one, while what was not rounded yet becomes `<name>/exact`.

    Args:
        path: An exported graph, or the simulation of a typed one.
        num_layers: The model's layers.

    Returns:
        `layer_output(i)` -> value's name, for the layers that are found.

    Raises:
        ExportError: The graph is missing or damaged.
    """
    graph = onnx_from_file(path).graph
    made = {value for node in graph.node for value in node.output}
    found: dict[str, str] = {}
    wanted = {layer_output(layer) for layer in range(num_layers)}
    for node in graph.node:
        layer = node.name.split("/")[0]
        if layer in wanted:
            value = node.output[0]
            rounded = value.removesuffix("/exact")
            found[layer] = rounded if rounded in made else value
    return found
