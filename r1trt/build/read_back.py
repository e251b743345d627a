"""What a parsed network holds, layer by layer: the proof of what the builder was really asked for."""

from __future__ import annotations

import re
from typing import Any

# "[ONNX Layer: R1DynamicMoE/MatMul_3 | model.layers.0.mlp.moe (R1DynamicMoE)]": a node in a function,
# and behind the bars the calls that it was inlined through, the main graph's last.
_METADATA = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_CALL = re.compile(r"^(.*) \([^()]*\)$")


def node_of_metadata(metadata: str) -> str | None:
    """Name of the main graph's node that a layer comes from; None for a layer that the parser added."""
    return next(iter(nodes_of_metadata(metadata)), None)


def nodes_of_metadata(metadata: str) -> list[str]:
    """Names of the main graph's nodes that a layer comes from, of a fused one several."""
    return [node for node in map(_outermost, _METADATA.findall(metadata)) if node]


def _outermost(calls: str) -> str:
    outermost = calls.split(" | ")[-1].strip()
    call = _CALL.match(outermost)
    return call[1] if call and " | " in calls else outermost


def _dtype(tensor: Any) -> str:
    return str(tensor.dtype).rpartition(".")[2]


def layers_of_network(network: Any) -> list[dict[str, Any]]:
    """Name, type, node and typed tensors of each layer of an INetworkDefinition, in its order."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        layers.append(
            {
                "name": layer.name,
                "type": str(layer.type).rpartition(".")[2],
                "node": node_of_metadata(layer.metadata),
                "inputs": [[t.name, _dtype(t)] for t in inputs if t is not None],
                "outputs": [[t.name, _dtype(t)] for t in outputs if t is not None],
            }
        )
    return layers
