"""Tiny checkpoints in FP8 with block scales, as DeepSeek publishes them, and the same models dequantized."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FP8 = torch.float8_e4m3fn
QUANTIZATION: dict[str, Any] = {
    "quant_method": "fp8",
    "fmt": "e4m3",
    "activation_scheme": "dynamic",
    "weight_block_size": [128, 128],
}
# As compressed-tensors 0.20 writes its scheme FP8_BLOCK.
COMPRESSED: dict[str, Any] = {
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "quantization_status": "compressed",
    "kv_cache_scheme": None,
    "global_compression_ratio": None,
    "moe_sparsity_config": None,
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "group_size": None,
                "strategy": "block",
                "block_structure": [128, 128],
                "dynamic": False,
            },
            "input_activations": {
                "num_bits": 8,
                "type": "float",
                "symmetric": True,
                "group_size": 128,
                "strategy": "group",
                "dynamic": True,
            },
            "output_activations": None,
            "format": None,
        }
    },
}
# No size is a multiple of 128, and most are more than one block.
RAGGED: dict[str, Any] = {
    "hidden_size": 200,
    "intermediate_size": 136,
    "moe_intermediate_size": 136,
    "q_lora_rank": 72,
    "kv_lora_rank": 136,
    "qk_nope_head_dim": 40,
    "v_head_dim": 24,
}

Tensors = dict[str, Tensor]


def quantize_checkpoint(
    checkpoint: Path,
    directory: Path,
    *,
    left_out: Sequence[str] = (),
    compressed: bool = False,
    scale_dtype: torch.dtype = torch.float32,
) -> Path:
    """Writes a checkpoint in FP8, and makes the one that is there its dequantized model in FP32.

    Args:
        checkpoint: A checkpoint of one file.
        directory: Where the FP8 one goes.
        left_out: Ends of the names of modules whose weights stay as they are.
        compressed: The spelling of compressed-tensors.
        scale_dtype: Type of the scales.
    """
    shutil.copytree(checkpoint, directory)
    plain, quantized = load_file(checkpoint / "model.safetensors"), {}
    for name, tensor in list(plain.items()):
        module = name.removesuffix(".weight")
        if "_proj" not in name or not name.endswith(".weight") or module.endswith(tuple(left_out)):
            quantized[name] = tensor
            continue
        codes, scales = quantize_blocks(tensor.float(), scale_dtype)
        quantized |= {name: codes, f"{name}_scale" if compressed else f"{name}_scale_inv": scales}
        plain[name] = codes.float() * spread(scales.float(), codes.shape)
    save_file(plain, checkpoint / "model.safetensors", {"format": "pt"})
    save_file(quantized, directory / "model.safetensors", {"format": "pt"})
    config = {**QUANTIZATION, **({"modules_to_not_convert": [*left_out]} if left_out else {})}
    if compressed:
        config = {**COMPRESSED, "ignore": ["lm_head", *(f"re:.*{name}$" for name in left_out)]}
    change_config(directory, quantization_config=config)
    return directory


def quantize_blocks(weight: Tensor, scale_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """FP8 [N,K], and scales that map the largest magnitude of each block of 128 x 128 to 448."""
    rows, columns = (-(-size // 128) for size in weight.shape)
    padded = torch.zeros(rows * 128, columns * 128)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    scales = (padded.abs().reshape(rows, 128, columns, 128).amax((1, 3)) / 448).to(scale_dtype)
    return (weight / spread(scales.float(), weight.shape)).clamp(-448, 448).to(FP8), scales


def spread(scales: Tensor, shape: Sequence[int]) -> Tensor:
    """The scale of each element of a weight."""
    return scales.repeat_interleave(128, 0).repeat_interleave(128, 1)[: shape[0], : shape[1]]


def change_tensors(checkpoint: Path, change: Callable[[Tensors], None]) -> None:
    """Rewrites a checkpoint's tensors after `change` was called with them."""
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def change_config(checkpoint: Path, **changes: Any) -> None:
    """Rewrites keys of config.json."""
    path = checkpoint / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(config), encoding="utf-8")
