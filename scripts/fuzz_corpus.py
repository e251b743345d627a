"""Valid files for the fuzzer: a tiny checkpoint and everything that the commands make of it."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from random_checkpoint import CONFIG, tensor_shapes
from safetensors.numpy import save_file

TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages if message['role'] == 'system' %}
{%- set ns.system = message['content'] %}
{%- endfor -%}
{{ bos_token }}{{ ns.system | trim }}
{%- for message in messages %}
{%- if message['role'] != 'system' %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | replace('\\r', '') + '<|im_end|>\\n' }}
{%- endif %}{{ message | tojson if loop.last and tools }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LINES = (
    {"text": "A fox."},
    {"prompt": "Hello, naïve 世界"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
)
PLUGIN_INFO: dict[str, Any] = {
    "key": "0" * 32, "sources": "0" * 32, "operators": ["R1DynamicRoPE"], "sms": [89, 90],
    "headers": "own", "nvcc": "13.0",
}  # fmt: skip


def make_corpus(directory: Path) -> Path:
    """Writes checkpoint, export, build, repository and single files; returns the directory."""
    from r1trt.build.config import BuildConfig
    from r1trt.build.pipeline import build_engine
    from r1trt.export.export import ExportConfig, export_checkpoint
    from r1trt.package.repository import TritonConfig, repository_from_engine

    for name in ("checkpoint", "sharded"):
        _write_checkpoint(directory / name, sharded=name == "sharded")
    export = directory / "export"
    export_checkpoint(
        ExportConfig(checkpoint=directory / "checkpoint", output=export, max_seq_len=32, copy=True)
    )
    options: dict[str, Any] = {
        "model": export,
        "arch": "cpu",
        "precision": "fp32",
        "output": directory / "build",
    }
    build_engine(BuildConfig(**options, max_batch_size=2, max_input_len=16))
    repository_from_engine(TritonConfig(engines=(directory / "build",), output=directory / "repository"))
    _write_validation(directory / "build")
    _write_singles(directory / "single")
    _link_views(directory)
    return directory


def _link_views(directory: Path) -> None:
    """Directories with a file of their own among files of others."""
    shutil.copytree(directory / "checkpoint", directory / "templated", copy_function=os.link)
    os.link(directory / "single" / "chat_template.jinja", directory / "templated" / "chat_template.jinja")
    (directory / "planned").mkdir()
    os.link(directory / "build" / "precision.yaml", directory / "planned" / "precision.yaml")
    (model,) = (path.parent for path in (directory / "repository").glob("*/config.pbtxt"))
    shutil.copytree(model, directory / "served", copy_function=os.link, symlinks=True)


def _write_checkpoint(directory: Path, *, sharded: bool) -> None:
    directory.mkdir(parents=True)
    config = {
        **CONFIG, "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 64, "torch_dtype": "float32",
    }  # fmt: skip
    draw = np.random.default_rng(0)
    tensors = {
        name: draw.standard_normal(shape, np.float32) / math.sqrt(shape[-1])
        for name, shape in tensor_shapes(config)
    }
    files = {name: "model.safetensors" for name in tensors}
    if sharded:
        files = {name: f"model-{1 + i % 2:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
        index = {"metadata": {"total_size": 0}, "weight_map": files}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, directory / file)
    tokens = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "special": True}}
    for name, content in (
        ("config.json", config),
        ("generation_config.json", {"eos_token_id": [1], "temperature": 0.7, "do_sample": True}),
        ("tokenizer_config.json", {**tokens, "chat_template": [{"name": "default", "template": TEMPLATE}]}),
        ("special_tokens_map.json", tokens),
    ):
        (directory / name).write_text(json.dumps(content))
    tokenizer_of_bytes().save(str(directory / "tokenizer.json"))


def tokenizer_of_bytes() -> tokenizers.Tokenizer:
    """Two special tokens, all bytes, and a few merges."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o")]
    words = ["<|im_start|>", "<|im_end|>", *letters, *map("".join, merges)]
    model = tokenizers.models.BPE({word: index for index, word in enumerate(words)}, merges)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(words[:2])
    tokenizer.normalizer = tokenizers.normalizers.NFC()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


def _write_validation(build: Path) -> None:
    from r1trt.artifacts.validation import ValidationSummary, write_validation

    figures = {
        "tokens": 9,
        "kl_mean": 0.0,
        "agreement": 1.0,
        "perplexity_reference": 2.0,
        "perplexity_tested": 2.0,
    }
    names: dict[str, Any] = {
        "created": "2026-11-26",
        "reference": "checkpoint",
        "tested": "engine",
        **figures,
    }
    summary = ValidationSummary(passed=True, perplexity_increase=0.0, not_executed={"typed": "x"}, **names)
    write_validation(build, summary, {}, "<html></html>")


def _write_singles(directory: Path) -> None:
    directory.mkdir()
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    (directory / "prompts.jsonl").write_text("\n".join(map(json.dumps, LINES)) + "\n")
    prompts = ["Hello", {"text": "A fox."}, {"messages": [{"role": "user", "content": "Hi"}]}]
    (directory / "profile.json").write_text(json.dumps({"batch": 3, "prompts": prompts, "new_tokens": 4}))
    (directory / "text.txt").write_text("The quick brown fox, naïve 世界 🦙.\n\nAnother line.\n")
    info = b"R1TRT_PLUGINS_INFO:" + json.dumps(PLUGIN_INFO).encode() + b"\0"
    layers = [
        {
            "name": "n",
            "op": "R1Linear",
            "asked": {"weight": "bf16"},
            "found": {"weight": "bf16"},
            "verdict": "ok",
        }
    ]
    report = {"layers": layers, "network_layers": 5, "executed": {}, "summary": {"ok": 1}}
    (directory / "layers.json").write_text(json.dumps(report))
    save_file({"n.weight_scale": np.ones(40, np.float32)}, directory / "precision.scales.safetensors")
    receipt = Path(__file__).parents[1] / "docs/benchmarks/operators_nvidia-h100-80gb-hbm3_2026-11-26.json"
    (directory / "receipt.json").write_bytes(receipt.read_bytes())
    (directory / "libr1trt_plugins.so").write_bytes(b"\x7fELF" + bytes(60) + info + bytes(100))
    request = {
        "text_input": ["BYTES", [1, 1], ["Hello"]], "max_tokens": ["int32", [1, 1], [4]],
        "chat": ["bool", [1, 1], [True]], "temperature": ["float32", [1, 1], [0.5]],
        "top_k": ["int64", [1, 1], [3]], "top_p": ["float32", [1, 1], [0.9]], "seed": ["uint64", [1, 1], [5]],
        "stop_words": ["BYTES", [1, 2], ["a", "b"]],
        "thinking": ["BYTES", [1, 1], ["show"]], "parameters": {"priority": 1},
    }  # fmt: skip
    (directory / "request.json").write_text(json.dumps(request))
    del request["text_input"], request["chat"]
    messages = json.dumps([{"role": "user", "content": "Hi"}])
    (directory / "messages.json").write_text(
        json.dumps({**request, "messages": ["BYTES", [1, 1], [messages]]})
    )
