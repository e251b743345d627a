"""The exporters that `benchmark_export.py` compares, and an environment with the peers among them.

As a program, with a checkpoint and an output directory as arguments, it is plain torch.onnx.export.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PEER_PACKAGES = (
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.32.0",
    "onnxscript==0.7.2",
    "torch==2.13.0",
    "transformers==5.23.0",
)


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One way to export.

    Attributes:
        name: What the table calls it.
        command: The command line; `{checkpoint}`, `{output}` and `{scratch}` are filled in.
        model: Path of the graph inside the output directory.
    """

    name: str
    command: tuple[str, ...]
    model: str


def exporters(peer_python: Path) -> list[Exporter]:
    """Lists what is compared; the first is the one that the others are related to."""
    ours = (sys.executable, "-m", "r1trt", "export", "{checkpoint}", "-o", "{output}")
    builder = (
        str(peer_python),
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        "{checkpoint}",
        "-o",
        "{output}",
    )
    torch_export = (
        str(peer_python),
        str(Path(__file__).resolve()),
        "{checkpoint}",
        "{output}",
    )
    genai = (*builder, "-p", "fp32", "-e", "cpu", "-c", "{scratch}")
    return [
        Exporter(name="r1trt export", command=ours, model="model.onnx"),
        Exporter(name="r1trt export --copy", command=(*ours, "--copy"), model="model.onnx"),
        Exporter(name="onnxruntime-genai 0.18 builder, FP32", command=genai, model="model.onnx"),
        Exporter(name="torch.onnx.export, BF16", command=torch_export, model="model.onnx"),
    ]


def make_peer_environment(directory: Path, packages: Sequence[str] = PEER_PACKAGES) -> Path:
    """Makes a virtual environment with pinned packages, unless it is there; returns its interpreter."""
    python, stamp = directory / "bin" / "python", directory / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == "\n".join(packages):
        return python
    print(f"installing {', '.join(packages)} into {directory}", file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--quiet"]
    command = [*pip, "--constraint", str(REPOSITORY / "constraints.txt"), *packages]
    subprocess.run(command, check=True)
    stamp.write_text("\n".join(packages), encoding="utf-8")
    return python


def export_with_torch(checkpoint: Path, output: Path) -> None:
    """Plain torch.onnx.export of transformers' model with a KV cache and dynamic sizes; BF16."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, attn_implementation="eager"
    )
    model.eval()
    config = model.config
    layers = config.num_hidden_layers

    class WithCache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, position_ids: Any, past: Any) -> Any:
            cache: Any = DynamicCache(config=config)
            for layer, (key, value) in enumerate(past):
                cache.update(key, value, layer)
            result = self.model(
                input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True
            )
            present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
            return (result.logits.float(), *present)

    dynamic = torch.export.Dim.DYNAMIC
    token_dims, cache_dims = {0: dynamic, 1: dynamic}, {0: dynamic, 2: dynamic}
    names = [f"{i}.{kind}" for i in range(layers) for kind in ("key", "value")]
    program: Any = torch.onnx.export(
        WithCache(),
        _example_inputs(config),
        None,
        dynamo=True,
        dynamic_shapes=(token_dims, token_dims, [(cache_dims, cache_dims)] * layers),
        input_names=["input_ids", "position_ids", *(f"past.{name}" for name in names)],
        output_names=["logits", *(f"present.{name}" for name in names)],
        external_data=True,
        verbose=False,
    )
    output.mkdir(parents=True, exist_ok=True)
    program.save(output / "model.onnx", external_data=True)


def _example_inputs(config: Any) -> tuple[Any, Any, list[tuple[Any, Any]]]:
    """Two rows of five tokens behind three cached ones: ids, positions, and keys and values by layer."""
    import torch

    shape = (2, config.num_key_value_heads, 3, config.hidden_size // config.num_attention_heads)
    past = [
        (torch.zeros(shape, dtype=torch.bfloat16), torch.zeros(shape, dtype=torch.bfloat16))
        for _ in range(config.num_hidden_layers)
    ]
    return torch.zeros(2, 5, dtype=torch.int64), torch.arange(3, 8)[None].repeat(2, 1), past


if __name__ == "__main__":
    export_with_torch(Path(sys.argv[1]), Path(sys.argv[2]))
