"""A figure against its limit."""

from __future__ import annotations

import math

import pytest

from r1trt.evaluate.verdict import Check


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_fails(value: float) -> None:
    assert not Check(metric="m", value=value, limit=1.0, bound="at most").passed
    if math.isnan(value):
        assert not Check(metric="m", value=value, limit=1.0, bound="at least").passed
