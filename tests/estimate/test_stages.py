"""Stages of a planned model add up to it, and docs/scale.md is what its script computes."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from r1trt.errors import ConfigError
from r1trt.estimate.gpus import DEVICES
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.source import sized_model
from r1trt.estimate.stages import even_ends, stages_of
from r1trt.estimate.times import seconds_of_call
from r1trt.ops.cost import CallSize

ROOT = Path(__file__).parents[2]
CALL = CallSize(batch=32, tokens=1, past=1023)


@pytest.fixture(scope="module")
def planned() -> PlannedModel:
    return planned_model(sized_model("r1-671b"), "hopper", "fp8", 1024)


@pytest.mark.parametrize("count", [1, 2, 8, 16, 61])
def test_stages_add_up(planned: PlannedModel, count: int) -> None:
    stages, costs = stages_of(planned, count), planned.costs(CALL)
    assert [layer for stage in stages for layer in range(stage.first, stage.last + 1)] == list(range(61))
    assert sum(stage.weight_bytes for stage in stages) == planned.bytes
    assert sum(stage.cache_token_bytes for stage in stages) == planned.kv_cache.token_bytes
    seconds = sum(stage.seconds(costs, DEVICES["h200"]) for stage in stages)
    assert seconds == pytest.approx(seconds_of_call(planned, CALL, DEVICES["h200"]))
    moved = sum(cost.moved_bytes * layers for cost, layers in planned.work(CALL))
    assert sum(stage.cost(costs).moved_bytes for stage in stages) == moved


def test_experts_are_most_of_a_stage(planned: PlannedModel) -> None:
    middle = stages_of(planned, 8)[3]
    # 256 experts of three products of 7168 x 2048 in FP8, 8 layers.
    assert middle.expert_bytes == 8 * 256 * 3 * 7168 * 2048
    assert 0.95 < middle.expert_bytes / middle.weight_bytes < 1


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([1, 1, 1, 1], 2, [1, 3]),
        ([5, 1, 1, 1], 2, [0, 3]),
        ([1, 1, 1, 5], 2, [2, 3]),
        ([1, 1, 1], 3, [0, 1, 2]),
        ([9, 1, 1], 3, [0, 1, 2]),
    ],
)
def test_cuts(sizes: list[int], count: int, expected: list[int]) -> None:
    assert even_ends(sizes, count) == expected


@pytest.mark.parametrize("count", [0, 62])
def test_stages_without_layers_are_refused(planned: PlannedModel, count: int) -> None:
    with pytest.raises(ConfigError, match="at least one layer"):
        stages_of(planned, count)


def test_the_page_is_what_its_script_writes() -> None:
    """After a change of costs or devices: `python scripts/write_scale.py`."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert runpy.run_path(str(ROOT / "scripts" / "write_scale.py"))["page"](page) == page
