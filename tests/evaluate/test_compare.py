"""Models are compared whatever they are: functions, PyTorch modules, sessions."""

from __future__ import annotations

import copy
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_checkpoints import VOCAB_SIZE, write_llama, write_r1_asa
from transformers import AutoModelForCausalLM

from r1trt.evaluate.compare import compare, compare_models
from r1trt.evaluate.evaluate import evaluate_model
from r1trt.evaluate.logits import LogitsComparison
from r1trt.evaluate.models import LOGITS, Model, Outputs, layer_output, model_from_session
from r1trt.evaluate.torch_model import model_from_module
from r1trt.evaluate.windows import Window, windows_from_ids
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.model import load_checkpoint
from r1trt.precision.plan import Thresholds
from r1trt.runtime.load import session_from_engine

THRESHOLDS = Thresholds(
    kl_max=0.01, perplexity_increase_max=0.01, agreement_min=0.9, logits_max_relative_error=0.01
)


def windows(seed: int = 0) -> list[Window]:
    ids = np.random.default_rng(seed).integers(0, VOCAB_SIZE, 150).tolist()
    return windows_from_ids([ids], size=64, max_tokens=1000)


def noisy(noise: float) -> Model:
    """A model of 3 layers with results of its own, which noise moves."""

    def run(input_ids_T: np.ndarray) -> Outputs:
        generator = np.random.default_rng(int(input_ids_T.sum()))
        outputs = {LOGITS: 3 * generator.standard_normal((len(input_ids_T), VOCAB_SIZE))}
        outputs |= {layer_output(i): generator.standard_normal((len(input_ids_T), 8)) for i in range(3)}
        return {
            name: (array + noise * generator.standard_normal(array.shape)).astype(np.float32)
            for name, array in outputs.items()
        }

    return run


def test_figures_are_those_of_all_windows_together() -> None:
    figures = compare(noisy(0.0), noisy(0.1), windows())
    want = LogitsComparison()
    for window in windows():
        pair = [noisy(noise)(window.input_ids)[LOGITS] for noise in (0.0, 0.1)]
        want.update(pair[0], pair[1], window.targets)
    assert figures.logits.to_dict() == want.to_dict() and figures.logits.tokens == 150
    assert list(figures.layers) == [layer_output(i) for i in range(3)]
    assert all(error.relative_rms == pytest.approx(0.1, rel=0.1) for error in figures.layers.values())


def test_each_model_reads_the_text_once_for_all_its_comparisons() -> None:
    calls: list[str] = []

    def counted(name: str, noise: float) -> Model:
        def run(input_ids_T: np.ndarray) -> Outputs:
            calls.append(name)
            return noisy(noise)(input_ids_T)

        return run

    models = {name: counted(name, noise) for name, noise in (("a", 0.0), ("b", 0.1), ("c", 0.2))}
    seen: list[tuple[str, int, int]] = []
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    found = compare_models(models, windows(), pairs, lambda *event: seen.append(event))
    assert list(found) == pairs and calls == ["a", "b", "c"] * 3
    assert seen == [("comparing", done, 3) for done in range(4)]
    assert found["a", "b"].logits.kl_mean < found["a", "c"].logits.kl_mean


def test_layers_that_one_model_lacks_are_left_out() -> None:
    figures = compare(noisy(0.0), lambda ids: {LOGITS: noisy(0.0)(ids)[LOGITS]}, windows())
    assert figures.logits.kl_mean == 0 and not figures.layers


@pytest.mark.parametrize(("noise", "passed"), [(0.01, True), (1.0, False)])
def test_thresholds_judge(noise: float, passed: bool) -> None:
    result = evaluate_model(noisy(0.0), noisy(noise), windows(), THRESHOLDS)
    assert result.passed == passed == (not result.failures)
    assert result.to_dict()["passed"] == passed


def test_a_changed_module_is_judged_by_the_same_code(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    module = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    pruned = copy.deepcopy(module)
    with torch.no_grad():
        pruned.model.layers[1].mlp.down_proj.weight.zero_()
    reference = model_from_module(module)
    assert evaluate_model(reference, reference, windows(), THRESHOLDS).passed
    judged = evaluate_model(reference, model_from_module(pruned), windows(), THRESHOLDS)
    assert not judged.passed
    first, second = judged.figures.layers.values()
    assert first.relative_rms == 0 and second.relative_rms > 0.01


@pytest.mark.parametrize("last_token_logits", [False, True])
def test_a_session_agrees_with_the_module_that_it_was_exported_from(
    tmp_path: Path, last_token_logits: bool
) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    export = export_checkpoint(
        ExportConfig(
            checkpoint=checkpoint,
            output=tmp_path / "export",
            max_seq_len=64,
            last_token_logits=last_token_logits,
        )
    )
    reference = model_from_module(load_checkpoint(checkpoint, torch.float32, max_seq_len=64))
    with closing(session_from_engine(export)) as session:
        figures = compare(reference, model_from_session(session), windows())
    assert figures.logits.tokens == 150 and figures.logits.error.max_relative < 1e-4
