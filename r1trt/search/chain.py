"""A model run piece by piece on the CPU, each piece in the types of some plan.

Legend: S tokens of one window, D hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from r1trt.graph.segments import HEAD, Segment, segments_of_model
from r1trt.passes.pipeline import run_passes, scoring_passes, segment_passes
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session

Array = npt.NDArray[Any]


class SegmentSession:
    """One piece, loaded.

    Args:
        segment: Which one.
        plan: The types and scales of its layers.
        weight_base: Directory that the graph's external weights are relative to.
        threads: CPU threads; None takes one for each core that may be used.
    """

    def __init__(
        self, segment: Segment, plan: PrecisionPlan, weight_base: Path, threads: int | None = None
    ) -> None:
        typed = run_passes(segment.model, segment_passes(plan))
        self._given, self._made = segment.input, segment.output
        self._takes_length = any(value.name == "seq_len" for value in typed.graph.inputs)
        proto = ir.to_proto(typed).SerializeToString()
        self._session = inference_session(proto, weight_base, LoadOptions(threads=threads))

    def __call__(self, x: Array) -> Array:
        """The piece's result [1, S, ...] for what it gets [1, S, ...]."""
        feeds = {self._given: x}
        if self._takes_length:
            feeds["seq_len"] = np.array([x.shape[1]], np.int64)
        result: Array = self._session.run([self._made], feeds)[0]
        return result


class ModelChain:
    """An exported model as its pieces.

    Args:
        model: Exported graph.
        weight_base: Directory that its external weights are relative to.
        threads: CPU threads; None takes one for each core that may be used.
    """

    def __init__(self, model: ir.Model, weight_base: Path, threads: int | None = None) -> None:
        self.segments = segments_of_model(run_passes(model, scoring_passes()))
        self._weight_base, self._threads = weight_base, threads

    @property
    def head(self) -> int:
        """Index of the piece that gives the logits."""
        return next(index for index, segment in enumerate(self.segments) if segment.name == HEAD)

    def session(self, index: int, plan: PrecisionPlan) -> SegmentSession:
        """One piece in a plan's types."""
        segment = self.segments[index]
        names = segment.layer_names()
        layers = {name: layer for name, layer in plan.layers.items() if name in names}
        return SegmentSession(segment, replace(plan, layers=layers), self._weight_base, self._threads)

    def hidden_states(
        self, plan: PrecisionPlan, windows: Sequence[Array], phase: str, progress: Progress = ignore
    ) -> list[Array]:
        """The residual stream [1, S, D] in front of the head, for each window of token ids [S].

        One piece is loaded at a time, and reads all windows.

        Args:
            plan: Its types.
            windows: Token ids [S].
            phase: What progress calls it.
            progress: Called with (phase, pieces done, pieces).
        """
        states = [ids_S[None] for ids_S in windows]
        for index in range(self.head):
            progress(phase, index, self.head)
            session = self.session(index, plan)
            states = [session(state) for state in states]
        progress(phase, self.head, self.head)
        return states
