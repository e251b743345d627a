"""Tiny random checkpoints, seeded; weights of variance 1 / fan-in, so logits and routing are not degenerate.

Every function writes a directory in Hugging Face's layout and returns it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM, save_checkpoint

VOCAB_SIZE = 320
IM_START, IM_END = 0, 1
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

Lam = Literal["zero", "one", "mixed"]


def write_llama(directory: Path, *, rope: dict[str, Any] | None = None, **options: Any) -> Path:
    """Writes a Llama; `rope` is `rope_parameters` without the theta, `options` are those of any model."""
    parameters = {"rope_theta": 10000.0, **(rope or {"rope_type": "default"})}
    return write_transformers(directory, "LlamaForCausalLM", rope_parameters=parameters, **options)


def write_transformers(
    directory: Path,
    architecture: str,
    *,
    dtype: str = "float32",
    seed: int = 0,
    tokenizer: bool = False,
    max_shard_size: int | str = "5GB",
    old_rope_spelling: bool = False,
    **overrides: Any,
) -> Path:
    """Writes a dense model of any class of `transformers`; `overrides` go to its configuration."""
    config_class = getattr(transformers, architecture.replace("ForCausalLM", "Config"))
    rope = {"rope_type": "default", "rope_theta": 1e6}
    config = config_class(**{**_dense_sizes(), "rope_parameters": rope, **overrides})
    model = getattr(transformers, architecture)(config)
    return _write_transformers(model, directory, dtype, seed, tokenizer, max_shard_size, old_rope_spelling)


def write_qwen2(directory: Path, **options: Any) -> Path:
    """Writes a Qwen2, whose q, k and v projections have biases; `options` are those of any model."""
    return write_transformers(directory, "Qwen2ForCausalLM", **options)


def write_deepseek(
    directory: Path,
    architecture: str = "DeepseekV3ForCausalLM",
    *,
    hub_spelling: bool = False,
    **options: Any,
) -> Path:
    """Writes a DeepSeek-V3 or -V2 of two layers, the second with experts.

    Args:
        directory: Where to.
        architecture: Class of `transformers`.
        hub_spelling: config.json as published checkpoints have it, rather than as `transformers` 5 writes.
        options: Those of any model; YaRN where `rope` is not given.
    """
    rope = {"rope_theta": 10000.0, **options.pop("rope", YARN)}
    sizes = {**_deepseek_sizes(architecture), "rope_parameters": rope}
    write_transformers(directory, architecture, **{**sizes, **options}, old_rope_spelling=hub_spelling)
    if hub_spelling:
        _spell_as_published(directory / "config.json")
    return directory


def write_r1_asa(
    directory: Path,
    *,
    lam: Lam = "mixed",
    dtype: str = "float32",
    seed: int = 0,
    tokenizer: bool = False,
    max_shard_bytes: int | None = None,
    **overrides: Any,
) -> Path:
    """Writes an R1-ASA; `overrides` are keys of its config.json."""
    raw_config = r1_asa_raw_config(**overrides)
    module = r1_asa_module(raw_config, lam=lam, seed=seed)
    save_checkpoint(
        module, directory, raw_config, dtype=getattr(torch, dtype), max_shard_bytes=max_shard_bytes
    )
    if tokenizer:
        write_tokenizer(directory, raw_config["vocab_size"])
    return directory


def r1_asa_raw_config(**overrides: Any) -> dict[str, Any]:
    """Returns a config.json dict: two layers, 8 experts, blocks of 8, trained length 32."""
    return {
        "architectures": ["R1AsaForCausalLM"],
        "model_type": "r1_asa",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": IM_START,
        "eos_token_id": IM_END,
        "num_experts": 8,
        "moe_intermediate_size": 32,
        "top_k": 2,
        "hla_block_size": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rope_temperature_alpha": 0.1,
        "original_max_position_embeddings": 32,
        **overrides,
    }


def r1_asa_module(raw_config: dict[str, Any], *, lam: Lam = "mixed", seed: int = 0) -> R1AsaForCausalLM:
    """Returns an FP32 module with random weights, and gates that give `lam` 0, 1 or values between."""
    config = model_config_from_dict(raw_config, where=Path("config.json"))
    module = R1AsaForCausalLM(config)
    _randomize(module, seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("router.weight", "lam_gate.weight")):
                parameter.mul_(2)
            elif name.endswith("lam_gate.bias") and lam != "mixed":
                parameter.fill_(-40.0 if lam == "zero" else 40.0)
    return module.eval()


def write_tokenizer(directory: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Writes a byte-level BPE tokenizer with ChatML's special tokens and a chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([__doc__ or "", Path(__file__).read_text(encoding="utf-8")], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)


def _dense_sizes() -> dict[str, Any]:
    return {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
        "bos_token_id": IM_START,
        "eos_token_id": IM_END,
    }


def _deepseek_sizes(architecture: str) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "num_key_value_heads": 4,
        "q_lora_rank": 24,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 8,
        "v_head_dim": 12,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 20,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 4,
        "topk_group": 2,
    }
    if architecture == "DeepseekV2ForCausalLM":
        return {**sizes, "topk_method": "group_limited_greedy", "routed_scaling_factor": 1.5}
    return sizes


@torch.no_grad()
def _randomize(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim > 1:
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]))
        else:
            parameter.copy_(0.1 * noise + (1 if name.endswith("norm.weight") else 0))
    for name, buffer in module.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))


def _write_transformers(
    model: PreTrainedModel,
    directory: Path,
    dtype: str,
    seed: int,
    tokenizer: bool,
    max_shard_size: int | str,
    old_rope_spelling: bool,
) -> Path:
    _randomize(model, seed)
    model.tie_weights()
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    if old_rope_spelling:
        _spell_rope_as_before_version_5(directory / "config.json")
    if tokenizer:
        write_tokenizer(directory, model.config.vocab_size)
    return directory


def _spell_rope_as_before_version_5(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _spell_as_published(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["rope_scaling"] is not None:
        config["rope_scaling"]["type"] = config["rope_scaling"].pop("rope_type")
    for key in ("head_dim", "qk_head_dim", "rope_interleave"):
        config.pop(key, None)
    published = {"aux_loss_alpha": 0.001, "ep_size": 1, "moe_layer_freq": 1, "seq_aux": True}
    if config["model_type"] == "deepseek_v3":
        published |= {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
    else:
        published |= {"scoring_func": "softmax"}
    path.write_text(json.dumps({**config, **published}, indent=2) + "\n", encoding="utf-8")
