"""Running models side by side on text: one window's outputs are in memory at a time.

Polygraphy runs them and hands their outputs to the figures.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import BaseCompareFunc, Comparator
from polygraphy.logger import G_LOGGER

from r1trt.evaluate.figures import PairFigures
from r1trt.evaluate.models import Model
from r1trt.evaluate.windows import Window
from r1trt.progress import Progress, ignore

Pair = tuple[str, str]
"""Names of a reference and of the model to test."""

_INPUT_IDS, _TARGETS = "input_ids", "targets"


def compare(
    reference: Model, tested: Model, windows: Sequence[Window], progress: Progress = ignore
) -> PairFigures:
    """Compare one model with another.

    Args:
        reference: The model that is held to be right.
        tested: The model to judge.
        windows: The text.
        progress: Called with ("comparing", windows done, windows).
    """
    pair = ("reference", "tested")
    models = dict(zip(pair, (reference, tested), strict=True))
    return compare_models(models, windows, [pair], progress)[pair]


def compare_models(
    models: Mapping[str, Model], windows: Sequence[Window], pairs: Sequence[Pair], progress: Progress = ignore
) -> dict[Pair, PairFigures]:
    """Compare pairs of models; each model reads the text once.

    Args:
        models: The models by name.
        windows: The text.
        pairs: What to compare with what.
        progress: Called with ("comparing", windows done, windows).
    """
    names = list(models)
    comparison = _Comparison({pair: PairFigures() for pair in pairs})
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        Comparator.compare_accuracy(
            Comparator.run(
                [_Runner(name, model) for name, model in models.items()],
                data_loader=_feeds(windows, progress),
                streaming=True,
            ),
            comparisons=[(names.index(reference), names.index(tested)) for reference, tested in pairs],
            compare_func=comparison,
        )
    return comparison.figures


def _feeds(windows: Sequence[Window], progress: Progress) -> Iterator[dict[str, npt.NDArray[np.int64]]]:
    for done, window in enumerate(windows):
        progress("comparing", done, len(windows))
        yield {_INPUT_IDS: window.input_ids, _TARGETS: window.targets}
    progress("comparing", len(windows), len(windows))


class _Runner(BaseRunner):  # type: ignore[misc]  # Polygraphy has no types
    """A model as Polygraphy runs it."""

    def __init__(self, name: str, model: Model) -> None:
        super().__init__(name=name)
        self._model = model

    def activate_impl(self) -> None:
        """The model is loaded already."""

    def deactivate_impl(self) -> None:
        """The model stays its owner's."""

    def get_input_metadata_impl(self) -> Any:
        """Names, types and shapes of the inputs."""
        metadata = TensorMetadata()
        for name in (_INPUT_IDS, _TARGETS):
            metadata.add(name, dtype=np.dtype(np.int64), shape=(-1,))
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[Any]]:
        """Runs one window; the targets pass through, for the figures."""
        started = time.perf_counter()
        outputs = self._model(feed_dict[_INPUT_IDS])
        self.inference_time = time.perf_counter() - started
        return {**outputs, _TARGETS: feed_dict[_TARGETS]}


class _Comparison(BaseCompareFunc):  # type: ignore[misc]  # Polygraphy has no types
    """Adds what Polygraphy hands over to the figures; judging them is not Polygraphy's part."""

    def __init__(self, figures: dict[Pair, PairFigures]) -> None:
        self.figures = figures

    def __call__(self, iter_result0: Any, iter_result1: Any) -> OrderedDict[str, bool]:
        """Adds one window's outputs of a reference and of a tested model."""
        figures = self.figures[iter_result0.runner_name, iter_result1.runner_name]
        reference, tested = dict(iter_result0.items()), dict(iter_result1.items())
        targets = reference.pop(_TARGETS)
        tested.pop(_TARGETS)
        figures.update(reference, tested, targets)
        # NOTES: the key is no output's name on purpose: Polygraphy would compute medians and quantiles of the
        # output for its log, which takes longer than running the model.
        return OrderedDict({"finite logits": figures.logits.broken_tokens == 0})
