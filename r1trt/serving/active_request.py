"""Where a request stands while it is served."""

from __future__ import annotations

import time

from r1trt.runtime.continuation import Continuation
from r1trt.runtime.session import Float32Array
from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.tokenizer.text_tokenizer import TextTokenizer


class ActiveRequest:
    """A request that waits for a row or has one.

    Args:
        request: What was asked.
        client: Who asked.
        tokenizer: The model's.
    """

    def __init__(self, request: GenerationRequest, client: Client, tokenizer: TextTokenizer) -> None:
        self.request = request
        self.client = client
        self.row = -1
        self.past = 0
        self.last_token = -1
        self.new_tokens = 0
        self.submitted_at = time.perf_counter()
        self.started_at = 0.0
        self.first_token_at = 0.0
        self._continuation = Continuation(
            tokenizer,
            sampling=request.sampling,
            max_new_tokens=request.max_new_tokens,
            stop=request.stop,
            thinking=request.thinking,
            begins_thinking=tokenizer.opens_thinking(request.prompt_ids),
        )

    @property
    def unread(self) -> int:
        """Prompt tokens that the cache does not hold yet."""
        return max(len(self.request.prompt_ids) - self.past, 0)

    @property
    def is_decoding(self) -> bool:
        """The prompt is read."""
        return self.new_tokens > 0

    def take(self, logits_V: Float32Array) -> RequestEvent:
        """Chooses the next token and returns what the client gets for it.

        Args:
            logits_V: Logits `[V]` after everything that the row holds.

        Raises:
            ConfigError: The logits are not finite numbers.
        """
        piece = self._continuation.take(logits_V)
        if not self.new_tokens:
            self.first_token_at = time.perf_counter()
        self.new_tokens += 1
        self.last_token = piece.token
        return RequestEvent(text=piece.text, new_tokens=1, finish_reason=piece.finish_reason)
