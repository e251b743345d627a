from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_engine import write_engine

from r1trt.errors import R1TrtError
from r1trt.serving.session import serving_session


def test_rows_are_empty_and_a_call_takes_any_of_them(tmp_path: Path) -> None:
    session = serving_session(write_engine(tmp_path / "engine"), 3, threads=1)
    assert session.rows == 3 and session.limits.capacity == 16
    two_B = np.ones(2, np.int64)
    logits_BSV = session.step(np.array([[2], [3]]), two_B, 0 * two_B, first_row=1)
    np.testing.assert_array_equal(logits_BSV[1, 0], 3 * np.arange(1, 9, dtype=np.float32))
    session.close()


@pytest.mark.parametrize(
    ("changes", "rows", "message"),
    [
        ({}, 5, "not built for so many rows"),
        ({}, 0, "not built for so many rows"),
        ({"cache": False, "capacity": None}, 1, "no KV cache"),
        ({"engines": []}, 1, "not finished"),
    ],
)
def test_engines_that_cannot_be_shared(
    tmp_path: Path, changes: dict[str, Any], rows: int, message: str
) -> None:
    with pytest.raises(R1TrtError, match=message):
        serving_session(write_engine(tmp_path / "engine", **changes), rows)
