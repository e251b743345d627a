"""The served model, as a client of Triton asks it: one gRPC stream a text."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton

from r1trt.openai.errors import ApiError, error_of_model, unavailable
from r1trt.serving.fields import REQUEST_FIELDS

_TYPES = {
    "STRING": ("BYTES", np.object_),
    "BOOL": ("BOOL", np.bool_),
    "INT32": ("INT32", np.int32),
    "INT64": ("INT64", np.int64),
    "UINT64": ("UINT64", np.uint64),
    "FP32": ("FP32", np.float32),
}
_FIELDS = {field.name: field for field in REQUEST_FIELDS}
_LARGEST = 2**31 - 1
_OPTIONS = [
    ("grpc.max_send_message_length", _LARGEST),
    ("grpc.max_receive_message_length", _LARGEST),
    # A server that was started again is found again soon; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
_READY_S = 5.0
_COUNT = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One response.

    Attributes:
        text: New text.
        thinking: New text of the thinking, where that was asked for.
        logprobs: How likely the new tokens were, where that was asked for, as OpenAI has it.
        input_tokens: Tokens of the prompt.
        cached_tokens: Those of them that stood in the cache; the first response has them.
        output_tokens: New tokens.
        thinking_tokens: Tokens that went into thinking, and are not counted yet.
        finish_reason: Why it is the last response; empty before.
    """

    text: str
    thinking: str = ""
    logprobs: Sequence[dict[str, Any]] = field(default=())
    input_tokens: int
    cached_tokens: int = 0
    output_tokens: int
    thinking_tokens: int = 0
    finish_reason: str


class ModelClient:
    """A connection to Triton; belongs to the event loop that runs when it is made.

    Args:
        address: Where Triton listens for gRPC.
    """

    def __init__(self, address: str) -> None:
        self._client = triton.InferenceServerClient(address, channel_args=_OPTIONS)
        self._kinds: dict[str, bool] = {}

    async def close(self) -> None:
        """Ends every call."""
        await self._client.close()

    async def is_ready(self, model: str) -> bool:
        """Whether the model answers."""
        try:
            return bool(await self._client.is_model_ready(model, client_timeout=_READY_S))
        except triton.InferenceServerException:
            return False

    async def generation_models(self) -> tuple[str, ...]:
        """Names of the server's models that generate text, as their interface says.

        Raises:
            ApiError: The server is not there.
        """
        try:
            # NOTES: the index of the repository would name them as well, and is restricted.
            statistics = await self._client.get_inference_statistics(client_timeout=_READY_S)
            names = sorted({entry.name for entry in statistics.model_stats})
            return tuple([name for name in names if await self._generates(name)])
        except triton.InferenceServerException as error:
            raise unavailable("The server is not there now; try again in some seconds.") from error

    async def _generates(self, model: str) -> bool:
        if model not in self._kinds:
            metadata = await self._client.get_model_metadata(model, client_timeout=_READY_S)
            tensors = {tensor.name for tensor in (*metadata.inputs, *metadata.outputs)}
            self._kinds[model] = {"text_input", "finish_reason"} <= tensors
        return self._kinds[model]

    async def generate(self, model: str, values: Mapping[str, Any]) -> AsyncGenerator[Piece, None]:
        """Asks for one text; closing the iterator cancels the request.

        Args:
            model: Its name.
            values: By the names of `REQUEST_FIELDS`.

        Raises:
            ApiError: The model refuses the request, or cannot answer it.
        """

        async def request() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": model, "inputs": inputs}

        inputs = [_tensor(name, value) for name, value in values.items()]
        # NOTES: not with `triton_grpc_error`, which gives errors a status: Triton 2.51 dies of some of them.
        responses = self._client.stream_infer(request())
        is_answered, failure = False, None
        try:
            # To its end, since a stream that is cancelled while Triton ends it is an error there.
            async for result, error in responses:
                if error is not None:
                    failure = error_of_model(error.message())
                    continue
                piece = _piece(result.get_response())
                is_answered = bool(piece.finish_reason)
                yield piece
        except grpc.aio.AioRpcError as error:
            raise _api_error(error) from error
        except asyncio.CancelledError as error:
            # Either this task's own, or that of a call whose channel is being closed.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise _gone() from error
        finally:
            responses.cancel()
        if not is_answered:
            raise failure or _gone()


def _tensor(name: str, value: Any) -> triton.InferInput:
    known = _FIELDS[name]
    datatype, dtype = _TYPES[known.dtype]
    elements = value if known.is_list else [value]
    encoded = [text.encode() for text in elements] if known.dtype == "STRING" else elements
    tensor = triton.InferInput(name, [1, len(encoded)], datatype)
    tensor.set_data_from_numpy(np.array([encoded], dtype))
    return tensor


def _piece(response: Any) -> Piece:
    # Read where they lie: NumPy would cost more than all else that is done for a token.
    outputs = {
        output.name: content
        for output, content in zip(response.outputs, response.raw_output_contents, strict=True)
    }
    logprobs = outputs.get("token_logprobs")
    return Piece(
        text=_text(outputs["text_output"]),
        thinking=_text(outputs["thinking_output"]) if "thinking_output" in outputs else "",
        logprobs=() if logprobs is None else json.loads(_text(logprobs)),
        input_tokens=_count(outputs["num_input_tokens"]),
        cached_tokens=_count(outputs["num_cached_tokens"]) if "num_cached_tokens" in outputs else 0,
        output_tokens=_count(outputs["num_output_tokens"]),
        thinking_tokens=_count(outputs["num_thinking_tokens"]) if "num_thinking_tokens" in outputs else 0,
        finish_reason=_text(outputs["finish_reason"]),
    )


def _text(content: bytes) -> str:
    """The one element of a tensor of texts, which stands behind its length."""
    return content[_COUNT.size :].decode()


def _count(content: bytes) -> int:
    (count,) = _COUNT.unpack(content)
    return int(count)


def _api_error(error: grpc.aio.AioRpcError) -> ApiError:
    """Of a call that Triton, or the way to it, ended."""
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return unavailable("The model is not there now; try again in some seconds.")
    return ApiError(500, f"The model failed: {error.details()}")


def _gone() -> ApiError:
    return unavailable("The model ended before it had answered; ask again.")
