"""Windows are the documents' tokens, in order, with the token that follows each."""

from __future__ import annotations

import numpy as np
import pytest

from r1trt.errors import ConfigError
from r1trt.evaluate.windows import windows_from_ids


@pytest.mark.parametrize("size", [2, 7, 10_000])
def test_windows_are_the_text(size: int) -> None:
    ids = np.random.default_rng(0).integers(0, 300, 151).tolist()
    windows = windows_from_ids([ids], size=size, max_tokens=10_000)
    assert np.concatenate([window.input_ids for window in windows]).tolist() == ids
    assert np.concatenate([window.targets for window in windows]).tolist() == [*ids[1:], -1]
    assert max(len(window.input_ids) for window in windows) <= size


def test_long_texts_do_not_crowd_out_short_ones() -> None:
    windows = windows_from_ids([range(600), range(1000, 1009)], size=16, max_tokens=50)
    assert windows[0].input_ids.tolist() == list(range(1000, 1009))
    assert sum(len(window.input_ids) for window in windows) == 50


def test_text_that_is_too_short() -> None:
    with pytest.raises(ConfigError, match="too short"):
        windows_from_ids([[1]], size=8, max_tokens=8)
