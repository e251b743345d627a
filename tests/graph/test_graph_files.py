"""Reading graphs' files, damaged ones included, and looking inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from runtime import small_graph

from r1trt.errors import ExportError
from r1trt.graph.load import model_from_onnx_file
from r1trt.graph.outputs import graph_with_outputs, onnx_from_file


def test_values_become_outputs_once(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=16)
    before = [value.name for value in onnx_from_file(path).graph.output]
    model = onnx.ModelProto.FromString(graph_with_outputs(path, ["h", "logits", "x"]))
    assert [value.name for value in model.graph.output] == [*before, "h", "x"]


def test_weights_stay_where_they_are(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=16)
    (tmp_path / "weights.bin").unlink()
    assert model_from_onnx_file(path).graph.name == "small"


@pytest.mark.parametrize("read", [model_from_onnx_file, onnx_from_file])
@pytest.mark.parametrize("content", [None, b"not a graph"], ids=["missing", "damaged"])
def test_files_that_are_no_graphs(
    tmp_path: Path, read: Callable[[Path], object], content: bytes | None
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError):
        read(path)


def test_a_graph_without_nodes(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])), path)
    with pytest.raises(ExportError, match="no nodes"):
        model_from_onnx_file(path)


def test_a_function_that_reads_what_nothing_makes_is_damaged(tmp_path: Path) -> None:
    text = """
<ir_version: 10, opset_import: ["": 24, "own": 1]>
small (float[B] x) => (float[B] y) { y = own.F(x) }
<domain: "own", opset_import: ["": 24]>
F (a) => (b) { b = Identity(a) }
"""
    model = onnx.parser.parse_model(text)
    model.functions[0].node[0].input[0] = "nope"
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ExportError, match=r"damaged(.|\n)*reads 'nope', which nothing makes"):
        model_from_onnx_file(path)
