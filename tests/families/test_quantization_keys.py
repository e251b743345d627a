from __future__ import annotations

from typing import Any

import pytest
from families.family_checks import assert_refused, raw_config, read
from fp8_checkpoints import QUANTIZATION

from r1trt.config import BlockFp8Config
from r1trt.errors import ConfigError
from r1trt.families.tensors import may_be_fp8

LLAMA = raw_config("LlamaForCausalLM", "llama", quantization_config=QUANTIZATION)


def test_what_is_read() -> None:
    assert read(LLAMA).quantization == BlockFp8Config()
    assert read(LLAMA, quantization_config=None).quantization is None
    short = {key: QUANTIZATION[key] for key in ("quant_method", "weight_block_size")}
    assert read(LLAMA, quantization_config=short).quantization == BlockFp8Config()
    named = {**QUANTIZATION, "modules_to_not_convert": ["lm_head", "model.layers.0"]}
    assert read(LLAMA, quantization_config=named).quantization == BlockFp8Config(
        left_out=("lm_head", "model.layers.0")
    )


def test_which_tensors_may_be_fp8() -> None:
    named = {**QUANTIZATION, "modules_to_not_convert": ["model.layers.0", "down_proj"]}
    config = read(LLAMA, quantization_config=named)
    assert may_be_fp8(config, "model.layers.1.mlp.gate_proj.weight")
    assert may_be_fp8(config, "model.layers.1.self_attn.kv_a_proj_with_mqa.weight")
    for name in (
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.mlp.down_proj.weight",
        "model.layers.1.mlp.gate.weight",
        "model.layers.1.self_attn.q_proj.bias",
        "model.embed_tokens.weight",
        "lm_head.weight",
    ):
        assert not may_be_fp8(config, name), name
    assert not may_be_fp8(read(LLAMA, quantization_config=None), "model.layers.1.mlp.gate_proj.weight")


REFUSED: list[tuple[Any, str]] = [
    ("fp8", "'fp8'"),
    ({**QUANTIZATION, "quant_method": "awq"}, "quant_method 'awq'"),
    ({**QUANTIZATION, "fmt": "e5m2"}, "fmt 'e5m2'"),
    ({**QUANTIZATION, "activation_scheme": "static"}, "activation_scheme 'static'"),
    ({**QUANTIZATION, "weight_block_size": [64, 64]}, "weight_block_size [64, 64]"),
    ({**QUANTIZATION, "weight_block_size": None}, "weight_block_size None"),
    ({**QUANTIZATION, "modules_to_not_convert": "lm_head"}, "modules_to_not_convert"),
    ({**QUANTIZATION, "modules_to_not_convert": [1]}, "modules_to_not_convert"),
    ({}, "quant_method None"),
]


@pytest.mark.parametrize(("value", "found"), REFUSED)
def test_refused(value: Any, found: str) -> None:
    assert_refused(LLAMA, {"quantization_config": value}, "quantized checkpoints of this kind")
    assert_refused(LLAMA, {"quantization_config": value}, found)


def test_all_differences_are_named_and_what_is_supported() -> None:
    other = {"quant_method": "gptq", "fmt": "e5m2", "weight_block_size": [1, 128]}
    with pytest.raises(ConfigError) as caught:
        read(LLAMA, quantization_config=other)
    assert all(text in str(caught.value) for text in ("'gptq'", "'e5m2'", "[1, 128]", "[128, 128]"))
