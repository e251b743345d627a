"""`--dump-passes`: the graph behind each pass as a file that viewers open, weights left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from passes.hand_made import HandMade, normal

from r1trt.errors import BuildError
from r1trt.passes.cancel_casts import CancelCastsPass
from r1trt.passes.dump import NO_WEIGHTS, GraphDump
from r1trt.passes.pipeline import run_passes
from r1trt.passes.share_conversions import ShareConversionsPass


def test_a_file_for_each_pass_without_weights(tmp_path: Path) -> None:
    graph = HandMade()
    weights = [graph.weight("large", normal(0, 32, 32)), graph.weight("small", np.float32(2.0))]
    product = graph.node("MatMul", "mm", [graph.input("x", [4, 32]), weights[0]], [4, 32], domain="")
    graph.output(graph.node("Mul", "scaled", [product, weights[1]], [4, 32], domain=""), "y")
    model = graph.model()
    run_passes(model, [CancelCastsPass(), ShareConversionsPass()], after_pass=GraphDump(tmp_path / "new"))
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["00-cancel-casts.onnx", "01-share-conversions.onnx"]
    dumped = onnx.load(files[1], load_external_data=False)
    large, small = dumped.graph.initializer
    assert (list(large.dims), large.external_data[0].value) == ([32, 32], NO_WEIGHTS)
    assert onnx.numpy_helper.to_array(small) == 2.0
    assert model.graph.initializers["large"].const_value.numpy().shape == (32, 32)


def test_an_earlier_dump_is_removed(tmp_path: Path) -> None:
    for name in ("00-cancel-casts.onnx", "07-check-plan.onnx", "104-simulate-bf16.onnx"):
        (tmp_path / name).write_bytes(b"earlier")
    GraphDump(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["model.onnx", "00-cancel-casts.onnx.data", "0-x.onnx", "notes"])
def test_a_directory_with_something_else_is_refused_untouched(tmp_path: Path, name: str) -> None:
    for other in (name, "00-cancel-casts.onnx"):
        (tmp_path / other).write_bytes(b"mine")
    with pytest.raises(BuildError, match="something else") as caught:
        GraphDump(tmp_path)
    assert caught.value.details["found"] == name
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_with_the_name_of_a_dump_is_refused(tmp_path: Path) -> None:
    (tmp_path / "00-cancel-casts.onnx").mkdir()
    with pytest.raises(BuildError, match="something else"):
        GraphDump(tmp_path)


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BuildError, match="cannot be made"):
        GraphDump(tmp_path / "file" / "dumps")
