"""Shapes of published models by name: their config.json, as far as it decides sizes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

RawConfig = Mapping[str, Any]


def _raw(
    architecture: str,
    model_type: str,
    sizes: tuple[int, int, int, int, int, int],
    *,
    positions: int,
    theta: float,
    **more: Any,
) -> RawConfig:
    """`sizes`: vocabulary, hidden size, MLP width, layers, query heads, key/value heads."""
    names = (
        *("vocab_size", "hidden_size", "intermediate_size"),
        *("num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    )
    return MappingProxyType(
        {
            "architectures": [architecture],
            "model_type": model_type,
            "torch_dtype": "bfloat16",
            **dict(zip(names, sizes, strict=True)),
            "max_position_embeddings": positions,
            "rope_theta": theta,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            **more,
        }
    )


def _qwen2(*sizes: int, theta: float, **more: Any) -> RawConfig:
    vocabulary, hidden, width, layers, heads, kv_heads = sizes
    shape = (vocabulary, hidden, width, layers, heads, kv_heads)
    return _raw("Qwen2ForCausalLM", "qwen2", shape, positions=131072, theta=theta, **more)


def _llama3(*sizes: int) -> RawConfig:
    scaling = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    vocabulary, hidden, width, layers, heads, kv_heads = sizes
    shape = (vocabulary, hidden, width, layers, heads, kv_heads)
    more = {"rope_scaling": scaling, "rms_norm_eps": 1e-5}
    return _raw("LlamaForCausalLM", "llama", shape, positions=131072, theta=500000.0, **more)


_LLAMA_70B = _llama3(128256, 8192, 28672, 80, 64, 8)

_YARN = {
    "type": "yarn",
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32,
    "beta_slow": 1,
}
_FP8 = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
_LATENT = {"kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128}

KNOWN_MODELS: Mapping[str, RawConfig] = MappingProxyType(
    {
        "r1-distill-qwen-1.5b": _qwen2(151936, 1536, 8960, 28, 12, 2, theta=10000.0),
        "r1-distill-qwen-7b": _qwen2(152064, 3584, 18944, 28, 28, 4, theta=10000.0),
        "r1-distill-qwen-14b": _qwen2(152064, 5120, 13824, 48, 40, 8, theta=1e6, rms_norm_eps=1e-5),
        "r1-distill-qwen-32b": _qwen2(152064, 5120, 27648, 64, 40, 8, theta=1e6, rms_norm_eps=1e-5),
        "r1-distill-llama-8b": _llama3(128256, 4096, 14336, 32, 32, 8),
        "r1-distill-llama-70b": _LLAMA_70B,
        "r1-70b": _LLAMA_70B,
        "r1-671b": _raw(
            "DeepseekV3ForCausalLM",
            "deepseek_v3",
            (129280, 7168, 18432, 61, 128, 128),
            positions=163840,
            theta=10000.0,
            **_LATENT,
            q_lora_rank=1536,
            rope_scaling={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
            first_k_dense_replace=3,
            n_routed_experts=256,
            n_shared_experts=1,
            moe_intermediate_size=2048,
            num_experts_per_tok=8,
            n_group=8,
            topk_group=4,
            topk_method="noaux_tc",
            scoring_func="sigmoid",
            norm_topk_prob=True,
            routed_scaling_factor=2.5,
            num_nextn_predict_layers=1,
            quantization_config=_FP8,
        ),
        "v2-lite": _raw(
            "DeepseekV2ForCausalLM",
            "deepseek_v2",
            (102400, 2048, 10944, 27, 16, 16),
            positions=163840,
            theta=10000.0,
            **_LATENT,
            q_lora_rank=None,
            rope_scaling={**_YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
            first_k_dense_replace=1,
            n_routed_experts=64,
            n_shared_experts=2,
            moe_intermediate_size=1408,
            num_experts_per_tok=6,
            n_group=1,
            topk_group=1,
            topk_method="greedy",
            scoring_func="softmax",
            norm_topk_prob=False,
            routed_scaling_factor=1.0,
        ),
        "smollm2-135m": _raw(
            "LlamaForCausalLM",
            "llama",
            (49152, 576, 1536, 30, 9, 3),
            positions=8192,
            theta=100000.0,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        ),
        "mistral-7b": _raw(  # v0.3, which has no window
            "MistralForCausalLM",
            "mistral",
            (32768, 4096, 14336, 32, 32, 8),
            positions=32768,
            theta=1e6,
            rms_norm_eps=1e-5,
            sliding_window=None,
        ),
        "qwen3-8b": _raw(
            "Qwen3ForCausalLM",
            "qwen3",
            (151936, 4096, 12288, 36, 32, 8),
            positions=40960,
            theta=1e6,
            head_dim=128,
        ),
    }
)
"""Configurations by the name that `r1trt estimate` takes."""
