"""Percentiles of histograms against NumPy's of the same numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from calibrate.calibrations import calibrated, config_for, exported, seen_by_hooks
from tiny_checkpoints import write_r1_asa

from r1trt.errors import PlanError
from r1trt.lowerings.histogram import BINS, BINS_OF_OCTAVE, magnitude_at

# The width of a bin.
RTOL = 2.0 ** (1 / BINS_OF_OCTAVE) - 1
KEYS = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.o_proj", "lm_head")


@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9, 100.0])
def test_scales_are_percentiles_of_what_pytorch_sees(percent: float, tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    config = config_for(checkpoint, tmp_path, method="percentile", percentile=percent)
    plan, seen = calibrated(model, config), seen_by_hooks(checkpoint, config)
    for key in (key for key in KEYS if plan.layers[key].quantizes_input):
        magnitudes = np.abs(np.concatenate([x.numpy() for x in seen[key]]))
        # Between neighbours that lie far apart any magnitude is the percentile.
        low, high = (np.percentile(magnitudes, percent, method=way) for way in ("lower", "higher"))
        scale = plan.layers[key].input_scale
        assert scale is not None
        assert low * (1 - RTOL) <= scale * 448 <= high * (1 + RTOL), key
    assert plan.calibration["method"] == "percentile" and plan.calibration["percentile"] == percent


def test_the_inputs_of_the_experts_second_product(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    model = exported(checkpoint, tmp_path / "export")
    config = config_for(checkpoint, tmp_path, method="percentile", percentile=99.0)
    plan, seen = calibrated(model, config), seen_by_hooks(checkpoint, config)
    key = "model.layers.0.mlp"
    mids = [x.numpy() for name, found in seen.items() for x in found if _is_down(name, key)]
    want = np.percentile(np.abs(np.concatenate(mids)), 99.0)
    assert plan.layers[f"{key}.moe"].mid_scale == pytest.approx(want / 448, rel=RTOL)


def _is_down(name: str, layer: str) -> bool:
    return name.startswith(f"{layer}.") and name.endswith("down_proj")


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.99, 100.0])
def test_reading_a_histogram(percent: float) -> None:
    magnitudes = np.abs(np.random.default_rng(0).standard_t(3, size=1_000_000))
    amax = float(magnitudes.max())
    bins = np.clip(-np.log2(magnitudes / amax) * BINS_OF_OCTAVE, 0, BINS - 1).astype(int)
    found = magnitude_at(np.bincount(bins, minlength=BINS), amax, percent)
    assert found == pytest.approx(np.percentile(magnitudes, percent), rel=RTOL)


def test_where_nearly_all_are_zero_nothing_is_clipped() -> None:
    counts = np.zeros(BINS)
    counts[0], counts[-1] = 5, 1_000_000
    assert magnitude_at(counts, 3.0, 99.99) == 3.0


@pytest.mark.parametrize("percent", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range(percent: float, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="percentile is out of range"):
        config_for(tmp_path, tmp_path, method="percentile", percentile=percent)
