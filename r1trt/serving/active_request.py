"""Where a request stands while it is served.

Legend: S tokens of one call, V vocabulary.
"""

from __future__ import annotations

import time

from r1trt.runtime.continuation import Continuation, Piece
from r1trt.runtime.logprobs import TokenLogprob, token_logprob
from r1trt.runtime.prompt_lookup import PromptLookup
from r1trt.runtime.sampling import require_usable_logits
from r1trt.runtime.session import Float32Array
from r1trt.serving.call_sizes import piece_of_prompt
from r1trt.serving.request import Client, GenerationRequest, RequestEvent
from r1trt.tokenizer.text_tokenizer import TextTokenizer


class ActiveRequest:
    """A request that waits for a row or has one.

    Args:
        request: What was asked.
        client: Who asked.
        tokenizer: The model's.
        last_token_logits: A call gives logits of its last token only. A prompt whose tokens are asked about
            is then fed one token at a time, as if they were generated.
        prompt_lookup: Tokens of a draft, at most; 0 drafts nothing.
    """

    def __init__(
        self,
        request: GenerationRequest,
        client: Client,
        tokenizer: TextTokenizer,
        *,
        last_token_logits: bool = False,
        prompt_lookup: int = 0,
    ) -> None:
        self.request = request
        self.client = client
        self.row = -1
        self.past = 0
        self.reused = 0
        self.tokens = list(request.prompt_ids)
        self.read_as_prompt = 0
        self.last_token = -1
        self.new_tokens = 0
        self.submitted_at = time.perf_counter()
        self.started_at = 0.0
        self.first_token_at = 0.0
        self.lookup = PromptLookup(request.prompt_ids, prompt_lookup) if prompt_lookup else None
        self._feeds_prompt = request.scores_prompt and last_token_logits
        self._vocab_size = tokenizer.vocab_size
        self._thinking_tokens = 0
        self._prompt_logprobs = [TokenLogprob(token=request.prompt_ids[0], logprob=None)]
        self._continuation = Continuation(
            tokenizer,
            sampling=request.sampling,
            max_new_tokens=request.max_new_tokens,
            stop=request.stop,
            thinking=request.thinking,
            begins_thinking=tokenizer.opens_thinking(request.prompt_ids),
            logprobs=request.logprobs,
            ignores_eos=request.ignores_eos,
        )

    @property
    def unread(self) -> int:
        """Prompt tokens that calls for prompts are still to read."""
        if self._feeds_prompt:
            return int(self.past == 0)
        return max(len(self.request.prompt_ids) - self.past, 0)

    @property
    def most_reused(self) -> int:
        """Tokens of the prompt that need not be read, where a row holds them.

        Two are left at least: the last one's logits are wanted, and a call of one token has a kernel of its
        own, whose sums come in another order. Where all tokens are asked about, all are read.
        """
        return 0 if self.request.scores_prompt else max(len(self.request.prompt_ids) - 2, 0)

    def begin_with(self, tokens: int) -> None:
        """Enters that the row holds the prompt's first tokens already."""
        self.past = self.reused = self.read_as_prompt = tokens

    def piece(self, most: int) -> int:
        """Prompt tokens of the next call."""
        return piece_of_prompt(most, self.unread)

    @property
    def is_decoding(self) -> bool:
        """The prompt is read, or fed a token at a time."""
        return self.new_tokens > 0 or (self._feeds_prompt and self.past > 0)

    def read(self, tokens: int, logits_SV: Float32Array) -> None:
        """Enters a piece of the prompt.

        Args:
            tokens: How many of it a call has read.
            logits_SV: Logits behind each of them, or `[1, V]` behind the last one.

        Raises:
            ConfigError: Logits that were asked for are not finite numbers.
        """
        first, self.past = self.past, self.past + tokens
        if tokens > 1 and self.read_as_prompt == first:
            self.read_as_prompt = self.past
        if self.request.scores_prompt and not self._feeds_prompt:
            following = self.request.prompt_ids[first + 1 : self.past + 1]
            for logits_V, token in zip(logits_SV, following, strict=False):
                self._score(logits_V, token)

    def take(self, logits_V: Float32Array) -> RequestEvent | None:
        """Chooses the next token and returns what the client gets for it; None where it is the prompt's own.

        Args:
            logits_V: Logits `[V]` after everything that the row holds.

        Raises:
            ConfigError: The logits are not finite numbers.
        """
        if self._feeds_prompt and self.past < len(self.request.prompt_ids):
            self.last_token = self.request.prompt_ids[self.past]
            self._score(logits_V, self.last_token)
            return None
        if not self.request.max_new_tokens:
            self.first_token_at = time.perf_counter()
            return RequestEvent(
                text=self.request.echo or "",
                cached_tokens=self.reused,
                logprobs=self._of_prompt(),
                finish_reason="length",
            )
        piece = self._continuation.take(logits_V)
        if not self.new_tokens:
            self.first_token_at = time.perf_counter()
        self.new_tokens += 1
        self.last_token = piece.token
        self.tokens.append(piece.token)
        if self.lookup is not None:
            self.lookup.add(piece.token)
        return self._event(piece)

    def _of_prompt(self) -> tuple[TokenLogprob, ...]:
        return tuple(self._prompt_logprobs) if self.request.scores_prompt else ()

    def _score(self, logits_V: Float32Array, token: int) -> None:
        require_usable_logits(logits_V)
        top = self.request.logprobs or 0
        self._prompt_logprobs.append(token_logprob(logits_V, token, top, self._vocab_size))

    def _event(self, piece: Piece) -> RequestEvent:
        """What the client gets for a token; the first one brings what was asked of the prompt."""
        is_first = self.new_tokens == 1
        echo = self.request.echo if is_first else None
        logprobs = self._of_prompt() if is_first else ()
        thought, self._thinking_tokens = self._thinking_tokens, self._continuation.thinking_tokens
        return RequestEvent(
            text=f"{echo or ''}{piece.text}",
            thinking=piece.thinking,
            new_tokens=1,
            cached_tokens=self.reused if is_first else 0,
            thinking_tokens=self._thinking_tokens - thought,
            logprobs=(*logprobs, *([piece.logprob] if piece.logprob else [])),
            finish_reason=piece.finish_reason,
        )
