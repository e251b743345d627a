"""Stages of the pipeline as Polygraphy runners, and the comparison of what they return.

Polygraphy runs all stages window by window (`Comparator.run(streaming=True)`) and hands their outputs to
`StageComparison`, which adds them to its figures, so that one window's outputs are in memory at a time.

Legend: T tokens of one window, V vocabulary, D hidden size.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from polygraphy.backend.base import BaseRunner
from polygraphy.common import TensorMetadata
from polygraphy.comparator import BaseCompareFunc, Comparator
from polygraphy.logger import G_LOGGER

from r1trt.evaluate.metrics import LogitsComparison, TensorError
from r1trt.evaluate.reference import LOGITS, Outputs, ReferenceModel
from r1trt.evaluate.windows import Window
from r1trt.runtime.prefill import prefill_outputs
from r1trt.runtime.session import Session

TARGETS = "targets"

StageName = Literal["checkpoint", "exported", "typed", "cpu", "engine"]
Pair = tuple[StageName, StageName]
RunWindow = Callable[[npt.NDArray[np.int64]], Outputs]


class StageRunner(BaseRunner):  # type: ignore[misc]  # Polygraphy has no types
    """One stage: a window's token ids in; logits, and layers' results where it has them, out.

    Args:
        name: The stage's name.
        load: Loads it, and returns what runs one window and what frees it.
    """

    def __init__(self, name: StageName, load: Callable[[], tuple[RunWindow, Callable[[], None]]]) -> None:
        super().__init__(name=name)
        self._load = load
        self._run: RunWindow | None = None
        self._close: Callable[[], None] | None = None

    def activate_impl(self) -> None:
        """Loads the stage."""
        self._run, self._close = self._load()

    def deactivate_impl(self) -> None:
        """Frees the stage."""
        if self._close is not None:
            self._close()
        self._run = self._close = None

    def get_input_metadata_impl(self) -> Any:
        """Names, types and shapes of the inputs."""
        metadata = TensorMetadata()
        for name in ("input_ids", TARGETS):
            metadata.add(name, dtype=np.dtype(np.int64), shape=(-1,))
        return metadata

    def infer_impl(self, feed_dict: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, npt.NDArray[Any]]:
        """Runs one window; the targets pass through, for the comparison."""
        assert self._run is not None
        started = time.perf_counter()
        outputs: dict[str, npt.NDArray[Any]] = dict(self._run(feed_dict["input_ids"]))
        self.inference_time = time.perf_counter() - started
        return {**outputs, TARGETS: feed_dict[TARGETS]}


def reference_loader(
    load: Callable[[], ReferenceModel],
) -> Callable[[], tuple[RunWindow, Callable[[], None]]]:
    """A `StageRunner`'s loader for a checkpoint in PyTorch."""
    return lambda: (load().run, lambda: None)


def session_loader(
    load: Callable[[], Session],
) -> Callable[[], tuple[RunWindow, Callable[[], None]]]:
    """A `StageRunner`'s loader for a session."""

    def open_session() -> tuple[RunWindow, Callable[[], None]]:
        session = load()
        return (lambda ids: run_window(session, ids)), session.close

    return open_session


def run_window(session: Session, input_ids_T: npt.NDArray[np.int64]) -> Outputs:
    """Run one window from an empty cache, in calls that the session accepts; logits [T, V], layers [T, D]."""
    # A graph that gives the last token's logits gives all of them when every call is one token.
    chunk = 1 if session.limits.last_token_logits else None
    outputs: Outputs = {}
    T = len(input_ids_T)
    for start, seq_len_B, results in prefill_outputs(session, [input_ids_T.tolist()], chunk):
        for name, array in results.items():
            whole = outputs.setdefault(name, np.empty((T, array.shape[-1]), np.float32))
            whole[start : start + int(seq_len_B[0])] = array[0, : int(seq_len_B[0])]
    return outputs


@dataclass
class PairFigures:
    """What two stages' outputs amount to.

    Attributes:
        logits: Predictions and logits.
        layers: Error of each layer's result, by its name; empty where one of the stages has none.
    """

    logits: LogitsComparison = field(default_factory=LogitsComparison)
    layers: dict[str, TensorError] = field(default_factory=dict)


class StageComparison(BaseCompareFunc):  # type: ignore[misc]  # Polygraphy has no types
    """A Polygraphy comparison function that gathers figures over windows; thresholds judge them."""

    def __init__(self) -> None:
        self.figures: dict[Pair, PairFigures] = {}

    def __call__(self, iter_result0: Any, iter_result1: Any) -> OrderedDict[str, bool]:
        """Takes one window's outputs of a reference stage and of a tested stage."""
        pair = (iter_result0.runner_name, iter_result1.runner_name)
        figures = self.figures.setdefault(pair, PairFigures())
        figures.logits.update(iter_result0[LOGITS], iter_result1[LOGITS], iter_result0[TARGETS])
        for name in iter_result0.keys():  # noqa: SIM118 - not a mapping
            if name not in (LOGITS, TARGETS) and name in iter_result1:
                error = figures.layers.setdefault(name, TensorError())
                error.update(iter_result0[name], iter_result1[name])
        # NOTES: the key is no output's name on purpose: Polygraphy would compute medians and quantiles of the
        # output for its log, which takes longer than running the model.
        return OrderedDict({f"{LOGITS} are finite": figures.logits.broken_tokens == 0})


def compare_stages(
    runners: Sequence[StageRunner],
    windows: Sequence[Window],
    pairs: Sequence[Pair],
    progress: Callable[[str, int, int], None],
) -> StageComparison:
    """Run stages over windows with Polygraphy, and compare pairs of them.

    Args:
        runners: The stages.
        windows: The text.
        pairs: Names of a reference stage and of the stage to test.
        progress: Called with ("comparing", windows done, windows).
    """
    names = [runner.name for runner in runners]
    comparison = StageComparison()

    def feed() -> Iterator[dict[str, npt.NDArray[np.int64]]]:
        for done, window in enumerate(windows):
            progress("comparing", done, len(windows))
            yield {"input_ids": window.input_ids, TARGETS: window.targets}
        progress("comparing", len(windows), len(windows))

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        Comparator.compare_accuracy(
            Comparator.run(runners, data_loader=feed(), streaming=True),
            comparisons=[(names.index(reference), names.index(tested)) for reference, tested in pairs],
            compare_func=comparison,
        )
    return comparison
