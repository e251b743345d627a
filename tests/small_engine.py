"""Build directories of the smallest kind: one product with an external weight, and a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from tokenizers import Tokenizer, models
from typical_manifests import REPOSITORY

from r1trt.plugin_tools.library import INFO_KEYS, INFO_MARKER

GRAPH = """
<ir_version: 10, opset_import: ["": 24]>
small (int64[B, S] input_ids, int64[B] seq_len, int64[B] past_len,
       float[B, 2, 16, 4] "key_cache.0", float[B, 2, 16, 4] "value_cache.0")
  => (float[B, S, 8] logits, float[B, 2, 16, 4] "key_cache_out.0", float[B, 2, 16, 4] "value_cache_out.0")
  <float[8] row = {1, 2, 3, 4, 5, 6, 7, 8}>
{
    ids = Cast<to = 1>(input_ids)
    axis = Constant<value_ints = [-1]>()
    column = Unsqueeze(ids, axis)
    logits = Mul(column, row)
    "key_cache_out.0" = Identity("key_cache.0")
    "value_cache_out.0" = Identity("value_cache.0")
}
"""

SCORING_GRAPH = """
<ir_version: 10, opset_import: ["": 24]>
small (int64[B, S] input_ids, int64[B] seq_len) => (float[B, S, 8] logits)
  <float[8] row = {1, 2, 3, 4, 5, 6, 7, 8}>
{
    ids = Cast<to = 1>(input_ids)
    axis = Constant<value_ints = [-1]>()
    column = Unsqueeze(ids, axis)
    logits = Mul(column, row)
}
"""

PLUGIN_GRAPH = """
<ir_version: 10, opset_import: ["": 24, "r1trt": 1]>
small (float[B, S, 8] q, float[B, S, 8] k, float[4] inv_freq, int64[B] past_len)
  => (float[B, S, 8] logits, float[B, S, 8] other)
{
    logits, other = r1trt.R1DynamicRoPE<interleaved = 0>(q, k, inv_freq, past_len)
}
"""

TENSORRT = {
    "arch": "hopper",
    "sms": [90],
    "backend": "tensorrt",
    "precision": "fp8",
    "engines": [{"file": "engine.sm90.plan", "sm": 90, "sha256": "", "bytes": 100}],
    "versions": {"onnxruntime": "1.32.0", "tensorrt-cu13": "11.4.0.106"},
}
TENSORRT_RTX = {
    **TENSORRT,
    "backend": "tensorrt-rtx",
    "versions": {"tensorrt-rtx-cu13": "1.7.1.13"},
}


def manifest(**changes: Any) -> dict[str, Any]:
    """A manifest of a finished build for the CPU."""
    return {
        "schema": 1,
        "kind": "engine",
        "arch": "cpu",
        "sms": [],
        "backend": "onnxruntime",
        "precision": "fp32",
        "capacity": 16,
        "max_batch_size": 4,
        "max_input_len": 16,
        "last_token_logits": False,
        "cache": True,
        "status": "complete",
        "engines": [{"file": "cpu.onnx", "sm": None, "sha256": "", "bytes": 0}],
        "source": {"model_name": "small"},
        "versions": {"onnxruntime": "1.32.0"},
        **changes,
    }


def repository_manifest(**engine: Any) -> dict[str, Any]:
    """A manifest of a model repository; `engine` are changes of what it says of its engine."""
    (model,) = REPOSITORY["models"]
    return {**REPOSITORY, "models": [{**model, "name": "small", "engine": {**model["engine"], **engine}}]}


def write_engine(directory: Path, *, graph: str | None = None, **changes: Any) -> Path:
    """Writes graph, weights, tokenizer and manifest; `changes` are manifest entries."""
    directory.mkdir()
    content = manifest(**changes)
    text = graph or (GRAPH if content["cache"] else SCORING_GRAPH)
    model = ir.from_proto(onnx.parser.parse_model(text))
    for name in ("cpu.onnx", "typed.onnx"):
        ir.save(model, directory / name, external_data="weights.safetensors", size_threshold_bytes=0)
    Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).save(str(directory / "tokenizer.json"))
    (directory / "profiles.json").write_text("[{}, {}]")
    for sm in (89, 90):
        (directory / f"engine.sm{sm}.plan").write_bytes(np.arange(sm, dtype=np.uint8).tobytes())
    (directory / "manifest.json").write_text(json.dumps(content))
    return directory


def plugin_library(path: Path, operators: list[str]) -> Path:
    """Writes a file that describes itself as a plugin library; no TensorRT loads it."""
    info = dict.fromkeys(INFO_KEYS, "") | {"operators": operators, "sms": [89, 90]}
    path.write_bytes(b"\x7fELF" + INFO_MARKER + json.dumps(info).encode() + b"\0")
    return path
