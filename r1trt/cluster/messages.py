"""What goes between stages: arrays and errors as plain Python values, none of which is a class of ours.

Ray pickles whatever it sends. A message is a dictionary of texts, numbers and bytes, so that what a stage is
given is data, of a type and a size that are checked, whichever version of this package the other side has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from r1trt.errors import R1TrtError
from r1trt.runtime.session import SessionError

Message = dict[str, Any]
TYPES = frozenset({"float32", "float16", "int64"})
_ERROR, _LOST = "error", "lost"


def message_of_array(array: npt.NDArray[Any]) -> Message:
    """An array as its bytes, its shape and its type."""
    return {"dtype": array.dtype.name, "shape": list(array.shape), "data": array.tobytes()}


def array_of_message(message: Message) -> npt.NDArray[Any]:
    """The array of a message; it cannot be written to.

    Raises:
        SessionError: The message holds no array, or one of another size than it says.
    """
    dtype, shape, data = (message.get(name) for name in ("dtype", "shape", "data"))
    sizes = isinstance(shape, list) and all(isinstance(size, int) and size >= 0 for size in shape)
    if dtype not in TYPES or not sizes or not isinstance(data, bytes):
        raise SessionError("A message between stages is no array.", found=sorted(map(str, message)))
    if len(data) != np.dtype(dtype).itemsize * math.prod(shape or []):
        raise SessionError(
            "A message between stages is not as long as it says.",
            found=f"{len(data)} bytes",
            expected=f"{dtype} {shape}",
        )
    return np.frombuffer(data, dtype).reshape(shape)


def message_of_error(error: R1TrtError) -> Message:
    """An error as its sentence and its details."""
    return {_ERROR: error.message, "details": dict(error.details)}


def message_of_loss(stage: int) -> Message:
    """What a stage answers that does not hold what the caller means: it was started anew."""
    return {_LOST: stage}


def is_failure(message: Message) -> bool:
    """Whether a message says that there is no result; a stage hands it on as it is."""
    return _ERROR in message or _LOST in message


def lost_stage(message: Message) -> int | None:
    """The stage that was started anew, if that is what a message says."""
    return message.get(_LOST)


def raise_error(message: Message) -> None:
    """Raises what a stage raised.

    Raises:
        SessionError: The message is an error.
    """
    if _ERROR in message:
        raise SessionError(message[_ERROR], **message["details"])
