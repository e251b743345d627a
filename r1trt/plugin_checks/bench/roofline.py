"""Floors: the time that no kernel can undercut, from operations, bytes and what the GPU can do of each.

Legend: N tokens, B block size, H query heads, Hkv key/value heads, d head size, L keys, T tokens, E experts,
K experts a token, D hidden size, F expert width.
"""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.estimate.gpus import device_of_driver_name

BF16_BYTES = 2


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """What a GPU can do; rates per second.

    Attributes:
        bf16: Operations, dense, with BF16 operands.
        fp8: The same with FP8 operands; 0 where there are no such tensor cores.
        bandwidth: Bytes to and from memory.
    """

    bf16: float
    fp8: float
    bandwidth: float


def data_sheet(name: str) -> Peaks | None:
    """The data sheet's rates for a GPU by the driver's name of it; None for one that is not in the table."""
    device = device_of_driver_name(name)
    if device is None:
        return None
    rates = device.operations
    return Peaks(bf16=rates["bf16"], fp8=rates.get("fp8_e4m3", 0.0), bandwidth=device.bandwidth)


def floor_us(operations: float, size: float, rate: float, bandwidth: float) -> float:
    """The larger of the times for operations and for bytes, in microseconds."""
    return 1e6 * max(operations / rate if operations else 0.0, size / bandwidth)


def pairs_full(tokens: int) -> int:
    """Query-key pairs of causal attention, of one head."""
    return tokens * (tokens + 1) // 2


def pairs_block(tokens: int, block: int, *, all_to_first: bool) -> int:
    """Query-key pairs of the block branch: the own block, and the first tokens of earlier blocks.

    Args:
        tokens: N, a multiple of `block`.
        block: B.
        all_to_first: Whether every query sees those first tokens, or only the first one of a block.
    """
    blocks = tokens // block
    across = blocks * (blocks - 1) // 2 * (block if all_to_first else 1)
    return blocks * pairs_full(block) + across


def attention_operations(pairs: float, heads: int, head_dim: int, batch: int = 1) -> float:
    """Operations of both products over `pairs` query-key pairs a head."""
    return 4.0 * head_dim * heads * batch * pairs


def prefill_bytes(tokens: int, heads: int, kv_heads: int, head_dim: int, batch: int = 1) -> float:
    """q, k, v and y once each, in BF16."""
    return float(BF16_BYTES * batch * tokens * head_dim * (2 * heads + 2 * kv_heads))


def decode_bytes(keys: float, kv_heads: int, head_dim: int, batch: int) -> float:
    """Keys and values of one step, in BF16."""
    return float(2 * BF16_BYTES * batch * keys * kv_heads * head_dim)


def keys_of_block_branch(keys: int, block: int) -> float:
    """Keys that a decoding query's block branch reads at most: the own block, and the others' first ones."""
    return block + keys / block


def active_experts(tokens: int, experts: int, top_k: int) -> float:
    """Experts that some token goes to, on average over uniform routings."""
    return float(experts * (1 - (1 - top_k / experts) ** tokens))


def moe_operations(tokens: int, top_k: int, hidden: int, width: int) -> float:
    """Operations of the experts' three products."""
    return 6.0 * tokens * top_k * hidden * width


def moe_bytes(tokens: int, experts: int, top_k: int, hidden: int, width: int, weight_bytes: int) -> float:
    """Weights of the experts that are needed, x and y in BF16."""
    weights = active_experts(tokens, experts, top_k) * 3 * hidden * width * weight_bytes
    return weights + 2 * BF16_BYTES * tokens * hidden


def permute_bytes(tokens: int, top_k: int, hidden: int, out_bytes: int) -> float:
    """X read once and written once for every expert that takes it."""
    return float(tokens * hidden * (BF16_BYTES + top_k * out_bytes))


def combine_bytes(tokens: int, top_k: int, hidden: int) -> float:
    """The experts' rows read once, y written once, in BF16."""
    return float(tokens * hidden * BF16_BYTES * (top_k + 1))


def rope_bytes(tokens: int, heads: int, kv_heads: int, head_dim: int) -> float:
    """Queries and keys read and written once, in BF16."""
    return float(2 * BF16_BYTES * tokens * (heads + kv_heads) * head_dim)
