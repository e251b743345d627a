"""Manifests as r1trt writes them, for tests."""

from __future__ import annotations

from typing import Any

from r1trt.artifacts.base import Manifest
from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.export import ExportManifest
from r1trt.artifacts.repository import RepositoryManifest

WEIGHTS = [
    {
        "name": "model.safetensors",
        "bytes": 269060552,
        "header_sha256": "8df0",
        "modified_ns": 1795696000123456789,
    }
]
READ_WEIGHTS = [{**WEIGHTS[0], "sha256": "5f" * 32}]

EXPORT: dict[str, Any] = {
    "kind": "export",
    "model_name": "SmolLM2",
    "r1trt": "0.1.0",
    "family": "llama",
    "checkpoint": "/models/SmolLM2",
    "capacity": 2048,
    "last_token_logits": False,
    "weights": {"base_directory": "/models/SmolLM2", "files": WEIGHTS},
    "config": {"architectures": ["LlamaForCausalLM"], "rope_theta": 100000.0, "rope_scaling": None},
    "config_sha256": "5206",
    "nodes": 543,
    "notes": ["a note"],
    "parameters": 134515008,
}

BUILD: dict[str, Any] = {
    "kind": "engine",
    "status": "complete",
    "arch": "ada",
    "sms": [89],
    "backend": "tensorrt-rtx",
    "precision": "fp8",
    "capacity": 2048,
    "cache": True,
    "max_batch_size": 4,
    "max_input_len": 512,
    "last_token_logits": False,
    "kv_cache_token_bytes": 46080,
    "engines": [{"file": "engine.sm89.plan", "sha256": "d22a", "bytes": 210435428, "sm": 89}],
    "source": {
        "model_name": "SmolLM2",
        "checkpoint": "/models/SmolLM2",
        "export": "/engines/SmolLM2",
        "model_hash": "efde",
        "model_sha256": "34bb",
        "weights": READ_WEIGHTS,
    },
    "versions": {"r1trt": "0.1.0", "tensorrt-rtx-cu13": "1.7.1.116"},
    "precision_summary": {"bf16": 2, "fp32": 61, "fp8_e4m3": 210},
    "files": [{"file": "typed.onnx", "sha256": "6968", "bytes": 733701}],
    "built_at": "2026-11-26T03:24:07+00:00",
    "plan_sha256": "85b2",
    "plugins": None,
    "plugin_libraries": [],
    "network_check": {"network_layers": 5901, "obeyed": 393, "disobeyed": 0, "unverified": 30},
    "external_experts": None,
    "part": {"build": "5f" * 32, "index": 1, "count": 4, "first_layer": 8, "last_layer": 15},
    "parts": 0,
}

REPOSITORY: dict[str, Any] = {
    "kind": "triton",
    "models": [
        {
            "name": "SmolLM2",
            "kind": "generation",
            "r1trt": "0.1.0",
            "library": "onnxruntime",
            "library_version": "1.32.0",
            "plugin_library": None,
            "files": [{"file": "SmolLM2/1/engine/cpu.onnx", "bytes": 233364, "sha256": "acbb"}],
            "engine": {
                "arch": "cpu",
                "sms": [],
                "backend": "onnxruntime",
                "precision": "fp32",
                "cache": True,
                "capacity": 2048,
                "max_batch_size": 8,
                "embeds_plugins": False,
                "versions": {"r1trt": "0.1.0"},
            },
        }
    ],
    "documents": [{"file": "README.md", "bytes": 4711, "sha256": "acbc"}],
}

KINDS: dict[type[Manifest], dict[str, Any]] = {
    ExportManifest: EXPORT,
    BuildManifest: BUILD,
    RepositoryManifest: REPOSITORY,
}
