"""Steps of a training: resumed and recomputed to the bit, and stopped at what is not a number."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from finetune.finetuning import exported, new_training, plan_with_scales, training_text, write_model

from r1trt.errors import UsageError, ValidationError
from r1trt.finetune.config import FinetuneConfig, recomputed_layers
from r1trt.finetune.state import load_state, save_state
from r1trt.finetune.training import Training, threads_of_torch
from r1trt.precision.plan import PrecisionPlan


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrecisionPlan]:
    directory = tmp_path_factory.mktemp("model")
    checkpoint = write_model(directory / "checkpoint", num_hidden_layers=4)
    return checkpoint, plan_with_scales(exported(checkpoint, directory / "export"))


@pytest.fixture(autouse=True)
def one_thread() -> object:
    with threads_of_torch(1):
        yield


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: master.detach().clone() for name, master in training.planned.masters.items()}


@pytest.mark.parametrize(("distil", "rate"), [(True, 1e-4), (False, 1e-3)])
def test_the_loss_falls(model: tuple[Path, PrecisionPlan], distil: bool, rate: float) -> None:
    training = new_training(*model, distil=distil, rate=rate)
    while not training.done:
        training.advance()
    assert len(training.losses) == training.text.steps == 8
    assert sum(training.losses[4:]) < sum(training.losses[:4])  # the same windows in another order


def test_a_resumed_training_is_the_same_to_the_bit(model: tuple[Path, PrecisionPlan], tmp_path: Path) -> None:
    whole, run = new_training(*model), {"seed": 0}
    while not whole.done:
        whole.advance()
    first = new_training(*model)
    for _ in range(3):
        first.advance()
    save_state(tmp_path / "state", run, first.state())
    second = new_training(*model)
    state = load_state(tmp_path / "state", run)
    assert state is not None and state.step == 3
    second.resume(state)
    while not second.done:
        second.advance()
    assert second.losses == whole.losses
    assert second.planned.activation_scales() == whole.planned.activation_scales()
    for name, weight in weights(whole).items():
        torch.testing.assert_close(second.planned.masters[name].detach(), weight, rtol=0, atol=0, msg=name)


def gradients(training: Training, kept: tuple[int, ...] | None) -> dict[str, torch.Tensor]:
    config = FinetuneConfig(checkpoint=Path(), output=Path("out"), keep_layers=kept)
    training.planned.module.recomputed = recomputed_layers(config, 4)
    training._backward(training.text.batch_of_step(0))
    found = {name: p.grad for name, p in training.planned.parameters.items() if p.grad is not None}
    training.planned.module.zero_grad()
    return found


def test_recomputed_gradients_are_the_same_to_the_bit(model: tuple[Path, PrecisionPlan]) -> None:
    training = new_training(*model)
    expected = gradients(training, None)
    assert len(expected) > 50
    for kept in ((-3, -2), ()):
        found = gradients(training, kept)
        assert set(found) == set(expected)
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=0, atol=0, msg=name)


def test_recomputing_more_layers_takes_less_memory(model: tuple[Path, PrecisionPlan]) -> None:
    training = new_training(*model)
    before = weights(training)
    layers = ((), (0, 1), (0, 1, 2, 3))
    peaks = [training.peak_bytes(frozenset(recomputed)) for recomputed in layers]
    assert peaks == sorted(peaks, reverse=True) and peaks[2] < 0.7 * peaks[0]
    training.advance()
    other = new_training(*model)
    other.advance()
    assert training.losses == other.losses
    assert any(not torch.equal(before[name], weight) for name, weight in weights(training).items())


def test_which_layers_are_recomputed() -> None:
    def asked(*kept: int) -> frozenset[int]:
        return recomputed_layers(FinetuneConfig(checkpoint=Path(), output=Path("o"), keep_layers=kept), 4)

    assert asked(-3, -2) == {0, 3} and asked() == {0, 1, 2, 3} and asked(0, 3, -1) == {1, 2}
    for wrong in (4, -5):
        with pytest.raises(UsageError, match="layers that the model does not have"):
            asked(0, wrong)


def test_a_number_that_is_not_finite_ends_it(model: tuple[Path, PrecisionPlan]) -> None:
    training = new_training(*model)
    training.advance()
    before = weights(training)
    with torch.no_grad():
        training.planned.module.model.norm.weight[0] = torch.nan
    with pytest.raises(ValidationError, match="not finite") as caught:
        training.advance()
    assert caught.value.details["where"] == "step 2 of 8"
    assert all(torch.equal(weight, before[name]) for name, weight in weights(training).items())
    assert len(training.losses) == 1


def test_every_window_is_read_once_an_epoch(model: tuple[Path, PrecisionPlan]) -> None:
    text = training_text(model[0], batch=2)
    first, second = (
        [tuple(row) for step in range(epoch * 4, epoch * 4 + 4) for row in text.batch_of_step(step)]
        for epoch in range(2)
    )
    assert sorted(first) == sorted(second) == sorted(map(tuple, text.windows)) and first != second
