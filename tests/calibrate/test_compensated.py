"""Compensated weights of whole models: what is measured, what is written, and that it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from calibrate.calibrations import chunks_of, config_for, exported
from calibrate.products import products_of_inputs
from tiny_checkpoints import write_llama, write_qwen2

from r1trt.build.write_typed import write_typed_model
from r1trt.calibrate import compensated
from r1trt.calibrate.calibrate import calibrated_plan
from r1trt.calibrate.compensated import Compensation, compensated_layers
from r1trt.calibrate.text import TokenChunks
from r1trt.errors import PlanError
from r1trt.evaluate.divergence import Reference
from r1trt.export.io import ExportedModel
from r1trt.model import load_checkpoint
from r1trt.passes.pipeline import passes_for, run_passes
from r1trt.passes.set_weights import SetWeightsPass
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import ignore
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession


def compensation(
    model: ExportedModel, plan: PrecisionPlan, chunks: TokenChunks, directory: Path
) -> Compensation:
    directory.mkdir()
    return Compensation(
        plan=plan,
        model=model.model,
        weight_base=model.weight_base,
        chunks=chunks,
        directory=directory,
        progress=ignore,
    )


def logits_of(
    model: ExportedModel, plan: PrecisionPlan, weights: Any, chunk: np.ndarray, directory: Path
) -> np.ndarray:
    graph = run_passes(model.model, passes_for("onnxruntime", plan, capacity=64, weights=weights))
    directory.mkdir()
    session = OnnxRuntimeSession(write_typed_model(graph, directory))
    session.reset(1)
    return session.step(chunk[None], np.array([len(chunk)]), np.zeros(1, np.int64))[0]


def test_products_are_those_of_pytorchs_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    config = config_for(checkpoint, tmp_path)
    seen: dict[str, list[np.ndarray]] = {}
    module = load_checkpoint(checkpoint, torch.float32)
    for name, child in module.named_modules():
        if isinstance(child, torch.nn.Linear):
            child.register_forward_hook(
                lambda _m, inputs, _y, name=name: seen.setdefault(name, []).append(inputs[0][0].numpy())
            )
    with torch.no_grad():
        for chunk in chunks_of(config):
            module(torch.from_numpy(chunk)[None])
    given: dict[str, np.ndarray] = {}
    real = Compensation._compensated

    def kept(self: Compensation, key: str, node: ir.Node, hessian_KK: np.ndarray) -> Any:
        given[key] = hessian_KK
        return real(self, key, node, hessian_KK)

    monkeypatch.setattr(Compensation, "_compensated", kept)
    monkeypatch.setattr(compensated, "PASS_BYTES", 40_000)  # some layers a pass
    plan = plan_from_rules(model.model, "cpu", "int4")
    compensation(model, plan, chunks_of(config), tmp_path / "weights").weights()
    assert set(given) == set(compensated_layers(plan)) == set(seen) | {"lm_head"}
    for name, inputs in seen.items():
        starts = np.concatenate([np.arange(len(part)) == 0 for part in inputs])
        want = products_of_inputs(np.concatenate(inputs), starts)
        np.testing.assert_allclose(given[name], want, rtol=1e-3, atol=1e-3 * np.abs(want).max())


@pytest.mark.parametrize("write", [write_llama, write_qwen2])
@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_a_compensated_model_is_nearer(write: Any, precision: Any, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    chunks = chunks_of(config_for(checkpoint, tmp_path))
    plan = plan_from_rules(model.model, "cpu", precision)
    made = compensation(model, plan, chunks, tmp_path / "weights")
    weights = made.weights()
    assert made.bytes == sum(tensor.nbytes for tensor in weights.values())
    wide = plan_from_rules(model.model, "cpu", "fp32")
    exact, nearest, found = (
        logits_of(model, *item, chunks[0], tmp_path / name)
        for name, item in {"a": (wide, None), "b": (plan, None), "c": (plan, weights)}.items()
    )
    assert np.square(found - exact).mean() < np.square(nearest - exact).mean()
    assert Reference(exact).kl(found).mean() < 0.01


def test_scales_of_rows_and_tensors_stay(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    config = config_for(checkpoint, tmp_path)
    for precision, dtype in (("fp8", ir.DataType.FLOAT8E4M3FN), ("int8", ir.DataType.INT8)):
        plan = plan_from_rules(model.model, "ada", precision)  # type: ignore[arg-type]  # one of them
        plan = calibrated_plan(plan, model.model, model.weight_base, config)
        weights = compensation(model, plan, chunks_of(config), tmp_path / precision).weights()
        assert {tensor.dtype for tensor in weights.values()} == {dtype}
        assert len(weights) == len(compensated_layers(plan))
        graph = run_passes(
            model.model, passes_for("tensorrt-rtx", plan, capacity=64, sms=[89], weights=weights)
        )
        for name, tensor in weights.items():
            nearest = run_passes(model.model, passes_for("tensorrt-rtx", plan, capacity=64, sms=[89]))
            rounded = nearest.graph.initializers[name].const_value
            assert rounded is not None and graph.graph.initializers[name].const_value is tensor
            codes, known = (item.numpy().astype(np.float32) for item in (tensor, rounded))
            assert (codes != known).any() and np.corrcoef(codes.ravel(), known.ravel())[0, 1] > 0.98
            break


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model = exported(write_llama(tmp_path / "checkpoint", tokenizer=True), tmp_path / "export")
    for name in ("model.norm.weight", "nothing"):
        wrong = ir.tensor(np.zeros(3, np.int8), name=name)
        with pytest.raises(PlanError, match="does not fit the graph") as caught:
            SetWeightsPass({name: wrong}).call(model.model.clone())
        assert caught.value.details["where"] == name
