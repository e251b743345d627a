"""Tiny checkpoints of every family, written by hand so that a test can damage each byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1trt.checkpoint import Checkpoint
from r1trt.data_types import OF_SAFETENSORS
from r1trt.families import expected_tensors, model_config_from_dict

CONFIGS: Mapping[str, dict[str, Any]] = {
    "llama": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "eos_token_id": [3, 4],
    },
    "r1_asa": {
        "architectures": ["R1AsaForCausalLM"],
        "model_type": "r1_asa",
        "vocab_size": 11,
        "hidden_size": 8,
        "intermediate_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "num_experts": 4,
        "moe_intermediate_size": 6,
        "num_shared_experts": 1,
        "shared_intermediate_size": 5,
        "first_k_dense_replace": 1,
        "scoring": "sigmoid",
    },
}
CONFIGS = {
    **CONFIGS,
    "qwen2": {**CONFIGS["llama"], "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
}

WriteCheckpoint = Callable[..., Path]


def safetensors_bytes(tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> bytes:
    """A .safetensors file of arrays whose bytes are already those of `dtype`."""
    entries, data = {}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        entries[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    return file_bytes(entries, data)


def file_bytes(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def arrays_of(config: Mapping[str, Any]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = expected_tensors(model_config_from_dict(config, where=Path("config.json")))
    return {name: rng.standard_normal(shape).astype("<f4") for name, shape in shapes.items()}


def tensor_of(checkpoint: Checkpoint, name: str) -> np.ndarray:
    """The values at the place that the checkpoint names for a tensor."""
    ref = checkpoint.tensors[name]
    data = np.fromfile(checkpoint.path / ref.file, np.uint8, ref.length, offset=ref.offset)
    return data.view(OF_SAFETENSORS[ref.dtype].numpy).reshape(ref.shape)


def write_index(directory: Path, weight_map: Mapping[str, str]) -> None:
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
