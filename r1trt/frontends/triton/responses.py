"""Answers in Triton's terms."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from r1trt.errors import R1TrtError
from r1trt.serving.call import Call
from r1trt.serving.fields import FAILED
from r1trt.serving.logprobs_text import logprobs_text
from r1trt.serving.request import CancelledError, QueueFullError, RequestError, RequestEvent
from r1trt.tokenizer.text_tokenizer import TextTokenizer


class ResponseWriter:
    """Sends one request's answer: piece by piece, or all of it at its end.

    Args:
        sender: Triton's handle of the request's client.
        call: The request.
        tokenizer: The model's.
    """

    def __init__(self, sender: Any, call: Call, tokenizer: TextTokenizer) -> None:
        self._sender = sender
        self._call = call
        self._tokenizer = tokenizer
        self._events: list[RequestEvent] = []
        self._is_first = True

    def send(self, event: RequestEvent) -> None:
        """Takes a message of the scheduler and sends a response when there is something to tell."""
        if event.error is not None:
            self._sender.send(error_response(event.error), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        self._events.append(event)
        if event.is_final:
            self._send(triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        elif self._call.stream and event.has_content:
            self._send(0)

    def _send(self, flags: int) -> None:
        gathered, self._events = RequestEvent.of_all(self._events), []
        request = self._call.request
        outputs = [_text("text_output", gathered.text), _text("finish_reason", gathered.finish_reason or "")]
        if self._call.count_input:
            outputs.append(_count("num_input_tokens", len(request.prompt_ids)))
            if self._is_first:
                outputs.append(_count("num_cached_tokens", gathered.cached_tokens))
        if self._call.count_output:
            outputs.append(_count("num_output_tokens", gathered.new_tokens))
        if request.thinking == "split":
            outputs.append(_text("thinking_output", gathered.thinking))
            outputs.append(_count("num_thinking_tokens", gathered.thinking_tokens))
        if request.logprobs is not None:
            outputs.append(_text("token_logprobs", logprobs_text(gathered.logprobs, self._tokenizer)))
        self._sender.send(triton.InferenceResponse(outputs), flags=flags)
        self._is_first = False


def error_response(error: R1TrtError) -> Any:
    """An error with the status that clients expect of its kind."""
    code, text = triton.TritonError.INTERNAL, str(error)
    if not isinstance(error, RequestError):
        text = f"{FAILED}\n{text}"
    elif isinstance(error, QueueFullError):
        code = triton.TritonError.UNAVAILABLE
    elif isinstance(error, CancelledError):
        code = triton.TritonError.CANCELLED
    else:
        code = triton.TritonError.INVALID_ARG
    return triton.InferenceResponse(error=triton.TritonError(text, code))


def _text(name: str, text: str) -> Any:
    return triton.Tensor(name, np.array([[text.encode("utf-8")]], dtype=np.object_))


def _count(name: str, count: int) -> Any:
    return triton.Tensor(name, np.array([[count]], dtype=np.uint32))
