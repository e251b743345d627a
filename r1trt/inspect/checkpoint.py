"""A checkpoint, or one of its files: headers only, never weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from r1trt.checkpoint import TensorRef, checkpoint_from_dir, read_safetensors_header
from r1trt.config import AttentionConfig, GqaConfig, ModelConfig, MoeConfig
from r1trt.inspect.summary import Summary, Table


def summary_of_checkpoint(path: Path) -> Summary:
    """Summarizes a Hugging Face directory.

    Raises:
        CheckpointError: It is not a checkpoint, or is damaged.
    """
    checkpoint = checkpoint_from_dir(path)
    facts = {
        **_model_facts(checkpoint.config),
        **_weight_facts(checkpoint.tensors.values()),
        "weight files": len(checkpoint.files),
        "weight files are links": checkpoint.has_links,
    }
    return Summary(
        kind="checkpoint", path=path, facts=facts, tables=[_dtype_table(checkpoint.tensors.values())]
    )


def _model_facts(config: ModelConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "architecture": config.architecture,
        "layers": config.num_layers,
        "hidden size": config.hidden_size,
        "heads": _heads_text(config.layers[0].attention),
        "vocabulary": config.vocab_size,
        "rope": f"{config.rope.kind}, theta {config.rope.theta:g}",
        "tied head": config.tie_word_embeddings,
    }
    moes = [layer.mlp for layer in config.layers if isinstance(layer.mlp, MoeConfig)]
    if moes:
        moe = moes[0]
        facts["experts"] = f"{moe.num_experts}, {moe.top_k_min} to {moe.top_k} a token, {moe.scoring} router"
        facts["dense layers"] = config.num_layers - len(moes)
    return facts


def _heads_text(attention: AttentionConfig) -> str:
    if isinstance(attention, GqaConfig):
        heads, kv_heads, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
        return f"{heads} query, {kv_heads} key/value, {size} wide"
    latent = f"{attention.kv_lora_rank} + {attention.qk_rope_head_dim}"
    return f"{attention.num_heads} query, {attention.qk_head_dim} wide, over a latent of {latent} elements"


def _weight_facts(tensors: Iterable[TensorRef]) -> dict[str, Any]:
    tensors = list(tensors)
    return {
        "tensors": len(tensors),
        "parameters": sum(_count(tensor.shape) for tensor in tensors),
        "weight bytes": sum(tensor.length for tensor in tensors),
    }


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _dtype_table(tensors: Iterable[TensorRef]) -> Table:
    totals: dict[str, list[int]] = {}
    for tensor in tensors:
        row = totals.setdefault(tensor.dtype, [0, 0, 0])
        for index, amount in enumerate((1, _count(tensor.shape), tensor.length)):
            row[index] += amount
    rows = [(dtype, *row) for dtype, row in sorted(totals.items())]
    return Table(title="Weights by type", header=("type", "tensors", "parameters", "bytes"), rows=rows)


def summary_of_safetensors(path: Path) -> Summary:
    """Summarizes the header of a weight file.

    Raises:
        CheckpointError: It is damaged.
    """
    header = read_safetensors_header(path.parent, path.name)
    facts = {"file bytes": header.file_bytes, **_weight_facts(header.tensors)}
    rows = [(t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", t.length) for t in header.tensors]
    tensors = Table(title="Tensors", header=("name", "type", "shape", "bytes"), rows=rows)
    return Summary(kind="safetensors", path=path, facts=facts, tables=[_dtype_table(header.tensors), tensors])
