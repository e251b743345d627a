"""The pipeline by hand: schedules that are known in closed form."""

from __future__ import annotations

import pytest

from r1trt.errors import ConfigError
from r1trt.estimate.pipeline import Pipeline, pipeline_run, seconds_of_round, steady_bubble


def pipeline(*seconds: float, **more: float) -> Pipeline:
    return Pipeline(stage_seconds=seconds, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(("stages", "chunks"), [(1, 1), (1, 5), (4, 1), (4, 3), (4, 16), (8, 2)])
def test_chunks_wait_as_the_formula_says(stages: int, chunks: int) -> None:
    run = pipeline_run(pipeline(*[2.0] * stages), chunks)
    assert run.seconds == pytest.approx(2.0 * (chunks + stages - 1))
    assert run.bubble == pytest.approx((stages - 1) / (chunks + stages - 1))
    assert run.calls == chunks


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 4, 9])
def test_a_round_is_the_slowest_stage_or_the_way_through_all(micro_batches: int) -> None:
    stages = pipeline(1.0, 3.0, 2.0, transfer_seconds=0.25, front_seconds=0.5)
    expected = max(1.0 + 3.0 + 2.0 + 2 * 0.25 + 0.5, 3.0 * micro_batches)
    assert seconds_of_round(stages, micro_batches) == pytest.approx(expected)
    assert steady_bubble(stages, micro_batches) == pytest.approx(1 - micro_batches * 6.0 / (3 * expected))


def test_one_call_at_a_time_is_the_sum() -> None:
    stages = pipeline(1.0, 2.0, transfer_seconds=0.5, front_seconds=4.0)
    run = pipeline_run(stages, micro_batches=1, rounds=3)
    assert run.seconds == pytest.approx(
        3 * (1.0 + 0.5 + 2.0) + 2 * 4.0
    )  # after the last nothing enters again
    assert run.busy == pytest.approx((3 / run.seconds, 6 / run.seconds))


def test_stages_that_share_cores_work_no_faster_than_these() -> None:
    stages = pipeline(1.0, 1.0, 1.0, cores=2)
    assert seconds_of_round(stages, 6) == pytest.approx(9.0, rel=0.02)
    one_core = pipeline(1.0, 2.0, 3.0, transfer_seconds=0.5, cores=1)
    assert seconds_of_round(one_core, 4) == pytest.approx(4 * 6.0)


@pytest.mark.parametrize(("stages", "micro_batches"), [(3, 3), (3, 6), (2, 2), (4, 1)])
def test_exponential_times_are_a_closed_network(stages: int, micro_batches: int) -> None:
    """Of N equal stages with exponentially distributed times each works M / (N + M - 1) of the time."""
    varied = pipeline(*[1.0] * stages, variation=1.0)
    expected = 1 - micro_batches / (stages + micro_batches - 1)
    assert steady_bubble(varied, micro_batches, rounds=20000) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("stages", [{"stage_seconds": ()}, {"stage_seconds": (1.0, -1.0)}])
def test_what_is_no_pipeline(stages: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ConfigError):
        Pipeline(**stages)  # type: ignore[arg-type]


def test_nothing_to_run() -> None:
    with pytest.raises(ConfigError, match="micro-batches"):
        pipeline_run(pipeline(1.0), 0)
    with pytest.raises(ConfigError, match="cores"):
        pipeline(1.0, cores=0)
