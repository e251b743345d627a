"""What others have for the mixture of experts.

Legend: T tokens, D hidden size, E experts, F expert width, K experts a token, R = T * K rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from r1trt.plugin_checks.bench.peers import PeerMissing, bound, operator, package

LARGEST_E4M3 = 448.0
SCALE_BLOCK = 128
DEEP_GEMM_ROWS = 128  # of an expert, in the contiguous layout
MASKED_TOKENS = 256  # up to so many, the masked layout reads fewer padding rows

Call = Callable[[], Any]


def route(
    logits: Tensor,
    bias: Tensor | None,
    *,
    top_k: int,
    n_group: int,
    topk_group: int,
    scaling: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor]:
    """DeepSeek-V3's selection, or plain softmax top-k: weights [T, K] and experts [T, K] of logits [T, E]."""
    scores = torch.sigmoid(logits) if sigmoid else torch.softmax(logits, -1)
    selection = scores if bias is None else scores + bias
    if n_group > 1:
        groups = selection.reshape(*selection.shape[:-1], n_group, -1)
        best = groups.topk(2, -1).values.sum(-1).topk(topk_group, -1).indices
        kept = torch.zeros_like(groups[..., 0]).scatter(-1, best, 1.0) > 0
        selection = groups.masked_fill(~kept.unsqueeze(-1), float("-inf")).flatten(-2)
    experts = selection.topk(top_k, -1).indices
    weights = scores.gather(-1, experts)
    return weights / (weights.sum(-1, keepdim=True) + 1e-20) * scaling, experts


def sorted_rows(experts: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Rows in the order of their experts [R], and where each expert's rows end [E] int32."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    # NOTES: bincount waits for the GPU, which a graph cannot hold.
    counts = torch.zeros(count, dtype=torch.int64, device=flat.device)
    counts = counts.scatter_add(0, flat, torch.ones_like(flat))
    return order, counts.cumsum(0).to(torch.int32)


def combined(rows: Tensor, order: Tensor, weights: Tensor) -> Tensor:
    """Rows [R, D] back at their tokens, weighted: [T, D]."""
    back = torch.empty_like(rows)
    back[order] = rows
    every = back.reshape(*weights.shape, -1).float() * weights.unsqueeze(-1)
    return every.sum(1).to(rows.dtype)


def _gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return silu(gate.float()).mul(up.float()).to(both.dtype)


def grouped_mm(x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    """The layer by torch._grouped_mm: x [T, D], gate_up [E, 2F, D], down [E, D, F] of x's type."""
    order, ends = sorted_rows(experts, len(gate_up))
    rows = x[order // experts.shape[1]]
    middle = _gated(torch._grouped_mm(rows, gate_up.transpose(-2, -1), offs=ends))
    return combined(torch._grouped_mm(middle, down.transpose(-2, -1), offs=ends), order, weights)


def quantized_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """E4M3 rows, and one scale each."""
    scale = rows.abs().amax(-1).float().clamp(min=1e-12) / LARGEST_E4M3
    return (rows / scale.unsqueeze(-1)).clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn), scale


def scaled_grouped_mm(
    x: Tensor, experts: Tensor, weights: Tensor, gate_up: Tensor, down: Tensor, scales: tuple[Tensor, Tensor]
) -> Tensor:
    """The layer by torch._scaled_grouped_mm: E4M3 weights, scales [E, 2F] and [E, D], one a row of x."""
    order, ends = sorted_rows(experts, len(gate_up))

    def product(rows: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        units, row_scale = quantized_rows(rows)
        return torch._scaled_grouped_mm(
            units, weight.transpose(-2, -1), row_scale, scale, offs=ends, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip

    middle = _gated(product(x[order // experts.shape[1]], gate_up, scales[0]))
    return combined(product(middle, down, scales[1]), order, weights)


def vllm_grouped_topk(logits: Tensor, bias: Tensor, routing: dict[str, Any]) -> Call:
    """VLLM's kernel for the selection."""
    op = operator("_moe_C.abi3.so", ("vllm._custom_ops",), "_moe_C", "grouped_topk")
    return bound(
        op, scores=logits, bias=bias, renormalize=True, scoring_func=1, n_group=routing["n_group"],
        topk_group=routing["topk_group"], topk=routing["top_k"], routed_scaling_factor=routing["scaling"],
    )  # fmt: skip


def flashinfer_topk(logits: Tensor, bias: Tensor, routing: dict[str, Any]) -> Call:
    """FlashInfer's kernel for the selection."""
    function = package("flashinfer.fused_moe").fused_topk_deepseek
    values = torch.empty(len(logits), routing["top_k"], device=logits.device)
    indices = torch.empty_like(values, dtype=torch.int32)
    arguments = (
        routing["n_group"],
        routing["topk_group"],
        routing["top_k"],
        routing["scaling"],
        values,
        indices,
    )
    return lambda: function(logits, bias, *arguments)


def vllm_permute(x: Tensor, experts: Tensor, count: int) -> Call:
    """VLLM's kernels that bring tokens to their experts' rows."""
    op = operator("_moe_C.abi3.so", ("vllm._custom_ops",), "_moe_C", "moe_permute")
    tokens, top_k = experts.shape
    rows, device = tokens * top_k, x.device
    outputs: dict[str, Any] = {
        "token_expert_indices": torch.arange(rows, dtype=torch.int32, device=device).reshape(tokens, top_k),
        "permuted_input": torch.empty(rows, x.shape[1], dtype=x.dtype, device=device),
        "expert_first_token_offset": torch.empty(count + 1, dtype=torch.int64, device=device),
        "inv_permuted_idx": torch.empty(tokens, top_k, dtype=torch.int32, device=device),
        "permuted_idx": torch.full((rows,), rows, dtype=torch.int32, device=device),
    }
    return bound(
        op, input=x, topk_ids=experts.int(), n_expert=count, n_local_expert=count, topk=top_k, **outputs
    )


def vllm_fused_experts(x: Tensor, gate_up: Tensor, down: Tensor, weights: Tensor, experts: Tensor) -> Call:
    """VLLM's fused experts with BF16 weights, without the routing."""
    function = package("vllm.model_executor.layers.fused_moe").fused_experts
    ids = experts.int()
    return lambda: function(x, gate_up, down, weights, ids)


def deep_gemm(experts: Tensor, gate_up: Tensor, down: Tensor, scales: tuple[Tensor, Tensor]) -> Call:
    """DeepGEMM's two products alone, on rows that already lie as it wants them.

    Args:
        experts: Of every token [T, K].
        gate_up: E4M3 [E, 2F, D].
        down: E4M3 [E, D, F].
        scales: Of 128 x 128 blocks.
    """
    try:
        library = package("deep_gemm")
    except PeerMissing:
        library = package("vllm.third_party.deep_gemm")
    counts = torch.bincount(experts.flatten(), minlength=len(gate_up))
    masked = len(experts) <= MASKED_TOKENS
    pairs = ((gate_up, scales[0]), (down, scales[1]))
    calls = [_deep_gemm_product(library, counts, pair, masked=masked) for pair in pairs]
    return lambda: [call() for call in calls]


def _deep_gemm_product(library: Any, counts: Tensor, weight: tuple[Tensor, Tensor], *, masked: bool) -> Call:
    E, N, depth = weight[0].shape
    device = weight[0].device
    padded = -(-counts // DEEP_GEMM_ROWS) * DEEP_GEMM_ROWS
    lead = (E, int(padded.max())) if masked else (int(padded.sum()),)
    rows = (torch.randn(*lead, depth, device=device) * 8).to(torch.float8_e4m3fn)
    scale = torch.rand(*lead, depth // SCALE_BLOCK, device=device)
    out = torch.empty(*lead, N, dtype=torch.bfloat16, device=device)
    if masked:
        expected = max(1, int(counts.float().mean().ceil()))
        valid = counts.int()
        return lambda: library.m_grouped_fp8_gemm_nt_masked((rows, scale), weight, out, valid, expected)
    layout = torch.arange(E, device=device, dtype=torch.int32).repeat_interleave(padded)
    return lambda: library.m_grouped_fp8_gemm_nt_contiguous((rows, scale), weight, out, layout)
