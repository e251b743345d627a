"""What a request asks for, in the model's own terms: what both kinds of requests have."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from r1trt.openai.errors import invalid
from r1trt.openai.values import Values

MOST_CHOICES = 128
"""Texts that one request may ask for."""
MOST_LOGPROBS = 20
MOST_TOKENS = 2**31 - 1
_SEEDS = 2**64
_LEAST_TOP_P = 1e-6
"""In the place of 0, which means the most likely token alone."""

# What asks for nothing in these values; what asks for something is refused.
_NOT_DONE: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0, 0.0),
    "presence_penalty": (0, 0.0),
    "repetition_penalty": (1, 1.0),
    "length_penalty": (1, 1.0),
    "logit_bias": ({},),
    "min_p": (0, 0.0),
    "min_tokens": (0,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}
# What says who asks, or what for.
_IGNORED = ("user", "metadata", "safety_identifier", "prompt_cache_key")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request.

    Attributes:
        model: Name of the model.
        prompts: Each prompt's values, by the names of the model's fields.
        values: Values of all prompts.
        choices: Texts for each prompt.
        seed: Of the first of them; the next one's is one more.
        stream: Send text as it is generated.
        include_usage: Send the usage behind a stream.
        continuous_usage: Send it with every piece.
    """

    model: str
    prompts: tuple[Mapping[str, Any], ...]
    values: Mapping[str, Any]
    choices: int
    seed: int
    stream: bool
    include_usage: bool
    continuous_usage: bool

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the model is asked, one call for each text, by the index of the choice."""
        return [
            {**self.values, **prompt, "seed": (self.seed + choice) % _SEEDS, "stream": True}
            for prompt in self.prompts
            for choice in range(self.choices)
        ]


def asked_from(values: Values, prompts: tuple[Mapping[str, Any], ...], own: Mapping[str, Any]) -> Asked:
    """Reads what both kinds of requests have; everything else was taken before.

    Args:
        values: Of the request.
        prompts: Each prompt's values, by the names of the model's fields.
        own: Values of all prompts that only one kind of request has.

    Raises:
        ApiError: Says which value is wrong, or not known.
    """
    model = values.text("model")
    if not model:
        raise invalid("You must provide a model parameter.", "model")
    choices = values.integer("n", 1, MOST_CHOICES) or 1
    if choices * len(prompts) > MOST_CHOICES:
        raise invalid(
            f"{choices * len(prompts)} texts are asked for; {MOST_CHOICES} at a time are taken.", "n"
        )
    seed = values.integer("seed", -(2**63), _SEEDS - 1)
    stream = values.flag("stream")
    include_usage, continuous_usage = _stream_options(values.take("stream_options"), stream)
    sampling = _sampling(values)
    for name, allowed in _NOT_DONE.items():
        values.require_only(name, *allowed)
    for name in _IGNORED:
        values.take(name)
    values.require_none_left()
    return Asked(
        model=model,
        prompts=prompts,
        values={**own, **sampling},
        choices=choices,
        seed=secrets.randbits(64) if seed is None else seed,
        stream=stream,
        include_usage=include_usage,
        continuous_usage=continuous_usage,
    )


def _sampling(values: Values) -> dict[str, Any]:
    top_p = values.number("top_p", 0, 1)
    found = {
        "temperature": values.number("temperature", 0, 2),
        "top_p": None if top_p is None else max(top_p, _LEAST_TOP_P),
        "top_k": _top_k(values),
        "stop_words": values.texts("stop") or None,
        "ignore_eos": values.flag("ignore_eos") or None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _top_k(values: Values) -> int | None:
    top_k = values.integer("top_k", -1, 2**63 - 1)
    return 0 if top_k == -1 else top_k  # as vLLM says: all of them


def _stream_options(options: Any, stream: bool) -> tuple[bool, bool]:
    if options is None:
        return False, False
    if not isinstance(options, dict):
        raise invalid("stream_options is of the wrong type: an object is expected.", "stream_options")
    if not stream:
        raise invalid("stream_options is for streams: set stream to true.", "stream_options")
    values = Values(options)
    include, continuous = values.flag("include_usage"), values.flag("continuous_usage_stats")
    values.require_only("include_obfuscation", False)
    values.require_none_left()
    return include, include and continuous
