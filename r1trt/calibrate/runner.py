"""A probed graph over a text, its statistics folded chunk by chunk, and kept on the disk as they grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.calibrate.statistics_cache import Entries, Entry, StatisticsCache
from r1trt.calibrate.text import TokenChunks
from r1trt.errors import PlanError
from r1trt.lowerings.statistics import Statistic
from r1trt.passes.add_probes import Probe
from r1trt.passes.pipeline import calibration_passes, run_passes
from r1trt.progress import Progress
from r1trt.runtime.onnxruntime_model import LoadOptions, folds_constants
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.session import Session

Numbers = dict[str, NDArray[np.float64]]
"""By the probe's name."""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """Runs a probed graph over all chunks and folds the statistics; holds one chunk at a time.

    Attributes:
        model: Exported graph.
        weight_base: Directory that its external weights are relative to.
        probes: What is measured.
        chunks: The text; each chunk starts with an empty cache.
        cache: What was measured before.
        progress: Called with (phase, chunks done, chunks).
    """

    model: ir.Model
    weight_base: Path
    probes: Sequence[Probe]
    chunks: TokenChunks
    cache: StatisticsCache
    progress: Progress

    def run(
        self, phase: str, statistic: Statistic, scales: Mapping[str, Sequence[float]] | None = None
    ) -> Numbers:
        """Numbers of each probe over the whole text.

        Args:
            phase: What `progress` is told.
            statistic: What is measured, where a probe has none of its own.
            scales: What the statistic wants of each probe.

        Raises:
            PlanError: Some of them are not finite.
        """
        file = self.cache.file(statistic, self.chunks)
        before = file.read()
        entries = before | self._begun(before, statistic, scales or {})
        missing = [probe for probe in self.probes if entries[probe.name].done < len(self.chunks)]
        if not missing:
            self.progress(phase, len(self.chunks), len(self.chunks))
        for grown in self._measured(phase, missing, entries, statistic, scales):
            entries |= grown
            file.write(entries)
        file.forget_others()
        return {probe.name: entries[probe.name].totals_N for probe in self.probes}

    def _begun(self, before: Entries, statistic: Statistic, scales: Mapping[str, Sequence[float]]) -> Entries:
        """Each probe's entry, of those before where it can be used; those that lack chunks lack the same."""
        used: Entries = {}
        for probe in self.probes:
            own = probe.statistic or statistic
            given_S = np.asarray(scales.get(probe.name, ()), np.float64)
            entry = before.get(probe.name)
            fits = (
                entry is not None and entry.totals_N.shape == (own.size,) and entry.done <= len(self.chunks)
            )
            if entry is None or not fits or not np.array_equal(entry.scales_S, given_S):
                entry = Entry(totals_N=np.zeros(own.size), scales_S=given_S, done=0)
            used[probe.name] = entry
        open_entries = {name: entry for name, entry in used.items() if entry.done < len(self.chunks)}
        if len({entry.done for entry in open_entries.values()}) > 1:
            used |= {
                name: Entry(totals_N=np.zeros_like(entry.totals_N), scales_S=entry.scales_S, done=0)
                for name, entry in open_entries.items()
            }
        return used

    def _measured(
        self,
        phase: str,
        probes: Sequence[Probe],
        entries: Entries,
        statistic: Statistic,
        scales: Mapping[str, Sequence[float]] | None,
    ) -> Iterator[Entries]:
        """The entries of probes that have seen the same chunks, after each further chunk."""
        if not probes:
            return
        grown = {probe.name: entries[probe.name] for probe in probes}
        own = {probe.name: probe.statistic or statistic for probe in probes}
        start = grown[probes[0].name].done
        self.progress(phase, start, len(self.chunks))
        with closing(probed_session(self.model, self.weight_base, probes, statistic, scales)) as session:
            session.reset(1)
            for done, chunk in enumerate(self.chunks[start:], start=start + 1):
                found = session.run(chunk[None], np.array([len(chunk)], np.int64), np.zeros(1, np.int64))
                _require_finite(found)
                grown = {
                    name: Entry(
                        totals_N=_folded(own[name], entry.totals_N, found[name]),
                        scales_S=entry.scales_S,
                        done=done,
                    )
                    for name, entry in grown.items()
                }
                yield grown
                self.progress(phase, done, len(self.chunks))


def probed_session(
    model: ir.Model,
    weight_base: Path,
    probes: Sequence[Probe],
    statistic: Statistic,
    scales: Mapping[str, Sequence[float]] | None = None,
) -> Session:
    """A session whose results are statistics by the probes' names; see `calibration_passes`."""
    probed = run_passes(model, calibration_passes(probes, statistic, scales))
    tensors = [value.const_value for value in probed.graph.initializers.values()]
    weight_bytes = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    return OnnxRuntimeSession(
        ir.to_proto(probed).SerializeToString(),
        weight_base=weight_base,
        outputs={probe.name: probe.name for probe in probes},
        options=LoadOptions(fold_constants=folds_constants(weight_bytes)),
    )


def _folded(
    statistic: Statistic, total_N: NDArray[np.float64], found_N: NDArray[np.float32]
) -> NDArray[np.float64]:
    fold = np.maximum if statistic.amax else np.add
    folded_N: NDArray[np.float64] = fold(total_N, found_N.astype(np.float64))
    return folded_N


def _require_finite(found: Mapping[str, NDArray[np.float32]]) -> None:
    bad = [name.rpartition("/")[0] for name, numbers in found.items() if not np.isfinite(numbers).all()]
    if bad:
        raise PlanError(
            "Activations are not finite.",
            where=bad[0],
            found=f"NaN or infinity in {len(bad)} of {len(found)} values that are measured",
            fix="check the checkpoint: run it in FP32 with r1trt validate, or repair it",
        )
