"""What a graph's file may hold before any parser sees it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from r1trt.errors import ExportError
from r1trt.graph.load import model_from_onnx_file
from r1trt.graph.wire import MAX_DEPTH, graph_bytes

GRAPH = """
<ir_version: 10, opset_import: ["": 24]>
small (float[B] x) => (float[B] y) { y = Identity(x) }
"""


def field(number: int, content: bytes) -> bytes:
    length = len(content)
    size = bytes((length & 0x7F | 0x80, length >> 7 & 0x7F | 0x80, length >> 14 & 0x7F | 0x80, length >> 21))
    return bytes((number << 3 | 2,)) + size + content


def nested(depth: int) -> bytes:
    graph = b""
    for _ in range(depth):
        graph = field(1, field(5, field(6, graph)))
    return field(7, graph)


HOSTILE = {
    "empty nodes": field(7, b"\x0a\x00" * 600_000),
    "empty attributes": field(7, field(1, b"\x2a\x00" * 2_000_000)),
    "empty tensors": field(7, b"\x2a\x00" * 2_000_000),
    "names of inputs": field(7, field(1, b"\x0a\x00" * 12_000_000)),
    "packed numbers": field(7, field(5, field(7, b"\0" * 50_000_000))),
    "nested": nested(MAX_DEPTH),
    "cut off": field(7, b"\x0a\x05ab"),
    "a number without an end": b"\xff" * 20,
    "an old kind of field": b"\x0b",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_costs_more_than_it_is_worth_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(ExportError, match="not a readable ONNX graph"):
        graph_bytes(path)


def test_graphs_are_left_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content = onnx.parser.parse_model(GRAPH).SerializeToString()
    path.write_bytes(content)
    assert graph_bytes(path) == content
    assert [node.op_type for node in model_from_onnx_file(path).graph] == ["Identity"]
