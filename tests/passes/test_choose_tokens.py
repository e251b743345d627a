"""Logits of all tokens, or of each row's last one where a call asks for no others."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from passes.hand_made import HandMade, normal, outputs_of

from r1trt.graph.interface import ONLY_LAST
from r1trt.passes.check_onnx import CheckOnnxPass
from r1trt.passes.choose_tokens import ChooseTokensPass
from r1trt.passes.pipeline import run_passes

INT64 = ir.DataType.INT64


def model_of(head: str = "lm_head", *, last: bool = False) -> ir.Model:
    graph = HandMade()
    shape = ["B", 6] if last else ["B", "S", 6]
    x, seq_len = graph.input("x", shape), graph.input("seq_len", ["B"], INT64)
    graph.output(graph.node("Identity", "length", [seq_len], ["B"], domain="", dtype=INT64), "length")
    table = graph.weight("table", normal(1, 6, 11))
    graph.output(graph.node("MatMul", head, [x, table], [*shape[:-1], 11], domain=""), "logits")
    return graph.model()


def test_a_call_chooses() -> None:
    model = model_of()
    chosen = run_passes(model, [ChooseTokensPass(), CheckOnnxPass()])
    for lengths in ([4, 1, 0], [1, 1, 1], [7, 5, 2]):
        seq_len = np.array(lengths, np.int64)
        feeds = {"x": normal(2, 3, max(lengths), 6), "seq_len": seq_len}
        whole = outputs_of(model, feeds)["logits"]
        np.testing.assert_array_equal(outputs_of(chosen, feeds)["logits"], whole)
        last = outputs_of(chosen, {**feeds, ONLY_LAST: np.array(True)})["logits"]
        assert last.shape == (3, 1, 11)
        expected = whole[np.arange(3), np.maximum(seq_len - 1, 0)]
        np.testing.assert_allclose(last[:, 0], expected, rtol=1e-6, atol=1e-6)


def test_other_graphs_stay() -> None:
    for model in (model_of("other"), model_of(last=True)):
        result = ChooseTokensPass()(model)
        assert not result.modified
        assert [value.name for value in model.graph.inputs] == ["x", "seq_len"]
