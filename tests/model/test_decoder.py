"""The PyTorch reference against a NumPy one that knows neither batches nor caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from r1_asa_reference import Reference
from tiny_checkpoints import Lam, r1_asa_module, r1_asa_raw_config

from r1trt.errors import R1TrtError
from r1trt.model import KvCache, R1AsaForCausalLM, recorded_decisions

TOKENS = 45  # past the trained length of 32 and over five blocks of 8
GROUPED = {"num_experts": 16, "n_group": 4, "topk_group": 2, "top_k": 4}
ADAPTIVE = {"top_k": 4, "adaptive_threshold": 0.7}

CASES: dict[str, tuple[Lam, dict[str, Any]]] = {
    "default": ("mixed", {}),
    "lam 0": ("zero", {"hla_lam_skip": 1e-3}),
    "lam 1": ("one", {"hla_lam_skip": 1e-3}),
    "lam skipped in part": ("mixed", {"hla_lam_skip": 0.2}),
    "no gate": ("mixed", {"hla_gate": False}),
    "all to first": ("mixed", {"hla_inter_block": "all_to_first"}),
    "one expert": ("mixed", {"num_experts": 1, "top_k": 1}),
    "all experts": ("mixed", {"num_experts": 3, "top_k": 3}),
    "64 experts": ("mixed", {"num_experts": 64, "top_k": 6}),
    "adaptive k": ("mixed", ADAPTIVE),
    "adaptive k, at least 2": ("mixed", {**ADAPTIVE, "top_k_min": 2, "norm_topk_prob": False}),
    "adaptive k of all": ("mixed", {**ADAPTIVE, "num_experts": 4}),
    "sigmoid": ("mixed", {"scoring": "sigmoid", "routed_scaling_factor": 2.5}),
    "sigmoid adaptive": ("mixed", {"scoring": "sigmoid", **ADAPTIVE}),
    "groups": ("mixed", GROUPED),
    "sigmoid groups": ("mixed", {"scoring": "sigmoid", **GROUPED, **ADAPTIVE}),
    "one group of four": ("mixed", {**GROUPED, "topk_group": 1}),
    "shared": ("mixed", {"num_shared_experts": 2, "shared_intermediate_size": 40}),
    "dense first, tied": (
        "mixed",
        {"first_k_dense_replace": 1, "intermediate_size": 96, "tie_word_embeddings": True},
    ),
    "one head": ("mixed", {"num_attention_heads": 1, "num_key_value_heads": 1}),
    "partial rotation": (
        "mixed",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "yarn": (
        "mixed",
        {"rope_parameters": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32}},
    ),
}


def random_ids(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(2, 320, shape, generator=torch.Generator().manual_seed(seed))


def module_of(name: str, dtype: torch.dtype = torch.float64) -> R1AsaForCausalLM:
    lam, overrides = CASES[name]
    return r1_asa_module(r1_asa_raw_config(**overrides), lam=lam).to(dtype)


def reference_of(module: R1AsaForCausalLM) -> Reference:
    tensors = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    return Reference(module.config, tensors, module.rope.inv_freq, module.rope.attention_factor)


@pytest.mark.parametrize("name", CASES)
def test_fp64_module_is_the_reference(name: str) -> None:
    module = module_of(name)
    ids = random_ids(TOKENS)
    expected = reference_of(module).logits(ids.tolist())
    with torch.no_grad():
        logits = module(ids[None])[0]
    assert logits.dtype == torch.float64
    assert expected.std() > 0.3
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-11, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_fp32_module_is_near_the_fp64_one(name: str) -> None:
    exact, module, ids = module_of(name), module_of(name, torch.float32), random_ids(2, TOKENS)
    with torch.no_grad(), recorded_decisions(exact) as decisions:
        expected = exact(ids)
        logits = module(ids)
    near_tie = decisions.margin_BS() < 1e-5
    # A token near a tie reaches those behind it through its keys, so a row counts up to its first one only.
    clear = near_tie.cumsum(1) == 0
    assert near_tie.sum() <= 1
    torch.testing.assert_close(logits.double()[clear], expected[clear], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ["default", "all to first", "sigmoid groups", "adaptive k", "no gate"])
@pytest.mark.parametrize("chunks", [[TOKENS], [7, 1, 30, 7], [1] * TOKENS])
def test_chunks_through_the_cache_are_one_prefill(name: str, chunks: list[int]) -> None:
    module, ids = module_of(name), random_ids(2, TOKENS)
    past = KvCache(module.config, 2, TOKENS, dtype=torch.float64)
    with torch.no_grad():
        expected = module(ids)
        logits = torch.cat([module(part, past=past) for part in ids.split(chunks, dim=1)], dim=1)
    torch.testing.assert_close(logits, expected, atol=1e-12, rtol=0)
    assert past.past_len_B.tolist() == [TOKENS, TOKENS]


def test_rows_of_different_length_are_independent_of_padding() -> None:
    module, ids = module_of("adaptive k"), random_ids(3, TOKENS)
    lengths = [[20, 3, 0], [1, 30, 0], [24, 12, 0]]
    past = KvCache(module.config, 3, 3 * TOKENS, dtype=torch.float64)
    parts: list[list[torch.Tensor]] = [[], [], []]
    fed = [0, 0, 0]
    with torch.no_grad():
        for step in lengths:
            call = torch.full((3, max(step)), 319)
            for row, length in enumerate(step):
                call[row, :length] = ids[row, fed[row] : fed[row] + length]
            logits = module(call, torch.tensor(step), past)
            for row, length in enumerate(step):
                parts[row].append(logits[row, :length])
                fed[row] += length
        for row in range(2):
            alone = module(ids[None, row, : fed[row]])[0]
            torch.testing.assert_close(torch.cat(parts[row]), alone, atol=1e-12, rtol=0)
    assert past.past_len_B.tolist() == [45, 45, 0]
    assert not any(keys[2].any() for keys in past.keys)


def test_a_call_beyond_the_cache_is_refused() -> None:
    module = module_of("default")
    past = KvCache(module.config, 1, 8, dtype=torch.float64)
    with pytest.raises(R1TrtError, match="does not fit the KV cache"):
        module(random_ids(1, 9), past=past)


def test_lengths_beyond_the_call_are_refused() -> None:
    with pytest.raises(R1TrtError, match="lengths"):
        module_of("default")(random_ids(1, 4), torch.tensor([5]))


def test_every_parameter_that_took_part_has_a_gradient() -> None:
    module = module_of("sigmoid groups")
    module(random_ids(2, TOKENS)).logsumexp(-1).sum().backward()
    without = {name for name, p in module.named_parameters() if p.requires_grad and p.grad is None}
    assert without <= {n for n, _ in module.named_parameters() if ".experts." in n}
    assert all(p.grad.isfinite().all() for p in module.parameters() if p.grad is not None)
    gates = [p.grad for n, p in module.named_parameters() if "lam_gate" in n or n.endswith("router.weight")]
    assert all(grad is not None and grad.abs().max() > 0 for grad in gates)


def test_gradients_are_those_of_finite_differences() -> None:
    module, ids = module_of("shared"), random_ids(1, 12)
    weight = module.model.layers[0].self_attn.lam_gate.weight
    loss = module(ids).square().mean()
    loss.backward()
    step = 1e-6
    with torch.no_grad():
        weight[1, 3] += step
        slope = (module(ids).square().mean() - loss) / step
    assert weight.grad[1, 3].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-8)


def test_bf16_module_keeps_its_sensitive_parts_in_fp32() -> None:
    module, ids = module_of("default", torch.bfloat16), random_ids(1, TOKENS)
    with torch.no_grad(), recorded_decisions(module) as decisions:
        logits = module(ids)
    assert logits.dtype == torch.bfloat16
    assert {routing.weights_TK.dtype for routing in decisions.routing.values()} == {torch.float32}
    assert {lam.dtype for lam in decisions.lam.values()} == {torch.float32}
    assert {p.dtype for p in module.rope.cos_sin(torch.zeros(1, 1), logits)} == {torch.float32}
