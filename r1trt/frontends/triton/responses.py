"""Answers in Triton's terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from r1trt.errors import R1TrtError
from r1trt.serving.call import Call
from r1trt.serving.request import CancelledError, QueueFullError, RequestError, RequestEvent


class ResponseWriter:
    """Sends one request's answer: piece by piece, or all of it at its end.

    Args:
        sender: Triton's handle of the request's client.
        call: The request.
    """

    def __init__(self, sender: Any, call: Call) -> None:
        self._sender = sender
        self._call = call
        self._text = ""
        self._new_tokens = 0

    def send(self, event: RequestEvent) -> None:
        """Takes a message of the scheduler and sends a response when there is something to tell."""
        if event.error is not None:
            self._sender.send(error_response(event.error), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        self._text += event.text
        self._new_tokens += event.new_tokens
        if event.is_final:
            self._send(event.finish_reason or "", triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        elif self._call.stream and self._text:
            self._send("", 0)

    def _send(self, finish_reason: str, flags: int) -> None:
        outputs = [_text("text_output", self._text), _text("finish_reason", finish_reason)]
        if self._call.count_input:
            outputs.append(_count("num_input_tokens", len(self._call.request.prompt_ids)))
        if self._call.count_output:
            outputs.append(_count("num_output_tokens", self._new_tokens))
        self._text, self._new_tokens = "", 0
        self._sender.send(triton.InferenceResponse(outputs), flags=flags)


def error_response(error: R1TrtError) -> Any:
    """An error with the status that clients expect of its kind."""
    code = triton.TritonError.INTERNAL
    if isinstance(error, QueueFullError):
        code = triton.TritonError.UNAVAILABLE
    elif isinstance(error, CancelledError):
        code = triton.TritonError.CANCELLED
    elif isinstance(error, RequestError):
        code = triton.TritonError.INVALID_ARG
    return triton.InferenceResponse(error=triton.TritonError(str(error), code))


def _text(name: str, text: str) -> Any:
    return triton.Tensor(name, np.array([[text.encode("utf-8")]], dtype=np.object_))


def _count(name: str, count: int) -> Any:
    return triton.Tensor(name, np.array([[count]], dtype=np.uint32))
