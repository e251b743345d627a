"""Arrays and errors as plain values: what comes out is what went in, and anything else is refused."""

from __future__ import annotations

import pickle
import pickletools
from typing import Any

import numpy as np
import pytest

from r1trt.cluster.messages import (
    array_of_message,
    is_failure,
    lost_stage,
    message_of_array,
    message_of_error,
    message_of_loss,
    raise_error,
)
from r1trt.errors import ConfigError
from r1trt.runtime.session import SessionError


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 1), (0, 5), ()])
def test_arrays_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    message = message_of_array(array)
    found = array_of_message(message)
    assert not is_failure(message) and (found == array).all()
    assert (found.dtype, found.shape) == (array.dtype, array.shape)


def test_arrays_that_are_not_contiguous() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    assert (array_of_message(message_of_array(array)) == array).all()


def test_a_message_has_no_class_in_its_pickle() -> None:
    pickled = pickle.dumps(message_of_array(np.ones((2, 3), np.float32)))
    codes = {code.name for code, _, _ in pickletools.genops(pickled)}
    assert not {"GLOBAL", "STACK_GLOBAL", "REDUCE"} & codes


GOOD = message_of_array(np.ones((2, 3), np.float32))


@pytest.mark.parametrize(
    "changes",
    [
        {"dtype": "object"},
        {"dtype": "float64"},
        {"shape": (2, 3)},
        {"shape": [2, -3]},
        {"shape": [2, 4]},
        {"shape": [1 << 40, 1 << 40]},
        {"data": b""},
        {"data": "text"},
    ],
)
def test_what_is_no_array_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SessionError, match="message between stages"):
        array_of_message({**GOOD, **changes})


def test_errors_come_back_with_their_details() -> None:
    message = message_of_error(ConfigError("It is wrong.", where="here", found=3, expected=4, fix="do it"))
    assert is_failure(message) and lost_stage(message) is None
    with pytest.raises(SessionError, match="It is wrong") as caught:
        raise_error(message)
    assert caught.value.details == {"where": "here", "found": "3", "expected": "4", "fix": "do it"}


def test_losses() -> None:
    message = message_of_loss(0)
    assert is_failure(message) and lost_stage(message) == 0
    raise_error(message)  # it is none
