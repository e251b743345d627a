"""What OpenAI's clients are told of tokens."""

from __future__ import annotations

from r1trt.openai.model_client import Piece
from r1trt.openai.usage import Usage


def test_a_prompts_tokens_count_once_and_those_in_the_cache_as_for_its_first_text() -> None:
    usage = Usage(2)
    # Two prompts of two texts each; the first text of a prompt leaves it in the cache for the second.
    for index, cached in enumerate((3, 8, 0, 18)):
        prompt = 10 if index < 2 else 20
        usage.add(
            index,
            Piece(text="a", input_tokens=prompt, cached_tokens=cached, output_tokens=1, finish_reason=""),
        )
        usage.add(index, Piece(text="b", input_tokens=prompt, output_tokens=2, finish_reason="stop"))
    assert usage.content == {
        "prompt_tokens": 30,
        "completion_tokens": 12,
        "total_tokens": 42,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
