from __future__ import annotations

from r1trt.cluster.lane_metrics import LaneGauges, LaneMetrics
from r1trt.serving import metrics as m


def test_lanes_are_one_model() -> None:
    found = m.RecordedMetrics()
    gauges = LaneGauges(found, 2)
    lanes = [LaneMetrics(found, gauges, lane) for lane in range(2)]
    for lane, running, use in zip(lanes, (3, 1), (0.5, 0.25), strict=True):
        lane.set(m.RUNNING, running)
        lane.set(m.CACHE_USE, use)
        lane.add(m.FINISHED, 2)
        lane.observe(m.QUEUE_SECONDS, 0.1)
        lane.flush()
    assert found.gauges == {m.RUNNING.name: 4, m.CACHE_USE.name: 0.375}
    assert found.counts[m.FINISHED.name] == 4
    assert len(found.observations[m.QUEUE_SECONDS.name]) == 2
    lanes[0].set(m.RUNNING, 0)
    assert found.gauges[m.RUNNING.name] == 1
