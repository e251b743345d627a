from __future__ import annotations

from typing import Any

import pytest
from families.family_checks import assert_refused, raw_config, read

from r1trt.config import RopeConfig

LLAMA = raw_config("LlamaForCausalLM", "llama")
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_scaling": {"type": "llama3", **LLAMA3}, "rope_theta": 500000},
        {"rope_scaling": {"type": "llama3", "rope_type": "llama3", **LLAMA3}, "rope_theta": 5e5},
        {"rope_parameters": {"rope_type": "llama3", **LLAMA3}, "rope_scaling": None, "rope_theta": 5e5},
        {
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
            "rope_scaling": {"type": "llama3", **LLAMA3},
            "rope_theta": 500000,
        },
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "partial_rotary_factor": None,
                **LLAMA3,
            },
            "rope_scaling": {"type": "llama3", "rope_type": "llama3", "rope_theta": 5e5, **LLAMA3},
            "rope_theta": 5e5,
        },
    ],
)
def test_rope_spellings_mean_the_same(spelling: dict[str, Any]) -> None:
    rope = read(LLAMA, **spelling).rope
    assert rope == RopeConfig(kind="llama3", theta=5e5, rotary_dim=8, parameters=LLAMA3)


@pytest.mark.parametrize(
    ("kind", "known", "ignored"),
    [
        ("yarn", YARN, {"finetuned": True}),
        ("yarn", YARN, {"low_freq_factor": 1.0, "alpha": None}),
        ("linear", {"factor": 2.0}, {"mrope_section": [1], "beta_fast": 32}),
        ("llama3", LLAMA3, {"attention_factor": 1.0}),
        ("default", {}, {"factor": 4.0}),
    ],
)
def test_what_transformers_ignores_is_ignored_and_named(
    kind: str, known: dict[str, Any], ignored: dict[str, Any]
) -> None:
    plain = read(LLAMA, rope_scaling={"type": kind, **known}).rope
    notes: list[str] = []
    assert read(LLAMA, notes=notes, rope_scaling={"type": kind, **known, **ignored}).rope == plain
    assert notes == [
        f"RoPE of type '{kind}' does not have {', '.join(sorted(ignored))}: ignored, as in transformers."
    ]


def test_rope_lengths_come_from_the_top_level() -> None:
    yarn = read(LLAMA, rope_scaling={"type": "yarn", **YARN}).rope
    assert yarn.parameters == {**YARN, "max_position_embeddings": 4096}
    dynamic = read(LLAMA, rope_scaling={"type": "dynamic", "factor": 2.0}).rope
    assert dynamic.parameters == {"factor": 2.0, "max_position_embeddings": 4096}
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    longrope = read(
        LLAMA, rope_scaling={"type": "longrope", **factors}, original_max_position_embeddings=1024
    ).rope
    assert longrope.parameters["original_max_position_embeddings"] == 1024


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rope_theta": -1.0}, "rope_theta"),
    ({"rope_theta": 10**400}, "rope_theta"),
    ({"rope_theta": "big"}, "rope_theta"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ({"rope_scaling": {"type": "su", "factor": 2.0}}, "RoPE type"),
    ({"rope_scaling": {"type": 3}}, "RoPE's type"),
    ({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2.0}}, "RoPE's type"),
    ({"rope_scaling": "yarn"}, "not an object"),
    ({"rope_scaling": {"type": "linear"}}, "lacks parameters"),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor"),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor"),
    ({"rope_scaling": {"type": "llama3", **LLAMA3, "high_freq_factor": 1.0}}, "no bands"),
    ({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}, "short_factor"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "differs between layers"),
    (
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear", "factor": 2.0}},
        "contradicts",
    ),
    ({"rope_parameters": {"rope_theta": 1e4}, "rope_theta": 1e6}, "given twice"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(LLAMA, changes, message)
