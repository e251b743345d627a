"""The reference's arithmetic against PyTorch's own flop counter, on random models of every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import write_deepseek, write_llama, write_qwen2, write_r1_asa, write_transformers
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from r1trt.model import KvCache, load_checkpoint
from r1trt.profile.profile import ProfileConfig, profile_model
from r1trt.profile.result import PhaseProfile

BATCH, PROMPT = 2, 37

CHECKPOINTS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_llama(path, attention_bias=True, mlp_bias=True),
    "mistral": lambda path: write_transformers(path, "MistralForCausalLM", sliding_window=None),
    "qwen2": write_qwen2,
    "qwen3": lambda path: write_transformers(path, "Qwen3ForCausalLM", head_dim=16),
    "deepseek_v2": lambda path: write_deepseek(path, "DeepseekV2ForCausalLM"),
    "deepseek_v3": write_deepseek,
    "deepseek_v3 without a low rank of queries": lambda path: write_deepseek(path, q_lora_rank=None),
    "r1_asa": lambda path: write_r1_asa(path, num_shared_experts=1, shared_intermediate_size=48),
    "r1_asa without a gate": lambda path: write_r1_asa(path, hla_gate=False, n_group=1),
}


def profile_of(checkpoint: Path, tmp_path: Path, new_tokens: int) -> dict[str, PhaseProfile]:
    requests = tmp_path / "requests.json"
    requests.write_text(f'{{"batch": {BATCH}, "prompt_tokens": {PROMPT}, "new_tokens": {new_tokens}}}')
    config = ProfileConfig(model=str(checkpoint), input=requests, device="cpu")
    return {phase.name: phase for phase in profile_model(config).phases}


def counted(call: Callable[[], Any]) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def counts_of_transformers(checkpoint: Path, ids: torch.Tensor) -> dict[str, int]:
    """Attention and experts as plain products: those of other implementations are not counted."""
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
    )
    past = model(ids, use_cache=True).past_key_values
    return {
        "prefill": counted(lambda: model(ids, use_cache=True)),
        "decode": counted(lambda: model(ids[:, :1], past_key_values=past, use_cache=True)),
    }


def counts_of_module(checkpoint: Path, ids: torch.Tensor) -> dict[str, int]:
    """R1-ASA's own module reads all of its cache, which therefore holds no more than it has to."""
    model = load_checkpoint(checkpoint, torch.float32)
    cache = KvCache(model.config, BATCH, PROMPT + 1)
    with torch.no_grad():
        model(ids, past=cache)
    return {
        "prefill": counted(lambda: model(ids)),
        "decode": counted(lambda: model(ids[:, :1], past=cache)),
    }


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_prefill_and_decode_against_the_flop_counter(name: str, tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS[name](tmp_path / "model")
    ids = torch.arange(BATCH * PROMPT).view(BATCH, PROMPT)
    count = counts_of_module if name.startswith("r1_asa") else counts_of_transformers
    phases = profile_of(checkpoint, tmp_path, new_tokens=2)
    for phase, flops in count(checkpoint, ids).items():
        assert phases[phase].calls == 1
        assert phases[phase].total.reference_flops == flops, (name, phase)


def test_dense_models_execute_what_the_reference_does_but_masked_keys(tmp_path: Path) -> None:
    phases = profile_of(write_llama(tmp_path / "model"), tmp_path, new_tokens=2)
    by_type = {row.name: row for row in phases["prefill"].rows}
    attention = by_type["attention"]
    # 2 layers of 4 heads of 16: all pairs of a query and a key, and those that causality allows.
    pairs = PROMPT * PROMPT, PROMPT * (PROMPT + 1) // 2
    dense, causal = (BATCH * 2 * 4 * pair * 2 * 16 * 2 for pair in pairs)
    rotation = 2 * 2 * 2 * BATCH * PROMPT * (4 + 2) * 16
    assert attention.flops - rotation - causal == attention.reference_flops - dense
    assert by_type["dense mlp"].reference_flops == 2 * 2 * 3 * BATCH * PROMPT * 64 * 96


def test_what_the_engine_spares_is_told_apart(tmp_path: Path) -> None:
    """Absorbed latents and sparse blocks: fewer operations in decode, and in prefill of the block branch."""
    latent = profile_of(write_deepseek(tmp_path / "v3"), tmp_path, new_tokens=3)["decode"].total
    assert latent.flops < latent.reference_flops
    asa = ProfileConfig(model=str(write_r1_asa(tmp_path / "asa")), breakdown="part", device="cpu")
    prefill = {row.name: row for row in profile_model(asa).phases[0].rows}
    block, full = prefill["self_attn.attention: block branch"], prefill["self_attn.attention: full branch"]
    assert block.reference_flops == full.reference_flops
    assert block.flops < full.flops < full.reference_flops
