"""The exporters that `benchmark_deepseek_peers.py` compares, and how their graphs are run.

As a program, with a checkpoint and an output directory as arguments, it is transformers' own exporter.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from random_deepseek import TOKENS, prompt

MOBIUS = ("mobius-onnx==0.1.0", "torch==2.13.0", "transformers==5.23.0")


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One way to export.

    Attributes:
        name: What the table calls it.
        command: The command line; `{checkpoint}` and `{output}` are filled in.
        logits: Logits [S,V] of the prompt from an output directory.
        stacked: Whether it gets the checkpoint with stacked experts.
        word: What its telling line begins with or holds.
    """

    name: str
    command: tuple[str, ...]
    logits: Callable[[Path], np.ndarray]
    stacked: bool = False
    word: str = ""

    def tells(self, line: str) -> bool:
        """Whether a line of what it printed is the one to keep."""
        return self.word in line or "Error" in line


def exporters(peers: Path) -> list[Exporter]:
    """What is compared, ours first.

    Args:
        peers: A virtual environment with the peers that need their own.
    """
    ours = (sys.executable, "-m", "r1trt", "export", "{checkpoint}", "-o", "{output}", "--max-seq-len", "256")
    own = (sys.executable, str(Path(__file__).resolve()), "{checkpoint}", "{output}")
    mobius = (
        str(peers / "bin" / "mobius"),
        "build",
        "--config",
        "{checkpoint}",
        "--dtype",
        "f32",
        "{output}",
    )
    return [
        Exporter(name="r1trt export", command=ours, logits=logits_of_export, word="exported"),
        Exporter(name="transformers OnnxExporter", command=own, logits=logits_of_graph, word="saved"),
        Exporter(name="mobius-onnx 0.1.0", command=mobius, logits=logits_of_graph, word="Saved model"),
        Exporter(
            name="mobius-onnx 0.1.0, stacked experts", command=mobius, logits=logits_of_graph, stacked=True,
            word="Saved model",
        ),
    ]  # fmt: skip


def logits_of_export(directory: Path) -> np.ndarray:
    """Of our export, by its session."""
    from r1trt.runtime.load import session_from_engine

    ids = prompt()
    session = session_from_engine(directory)
    session.reset(1)
    logits = session.step(ids, np.full(1, ids.shape[1], np.int64), np.zeros(1, np.int64))
    return np.asarray(logits[0], np.float64)


def logits_of_graph(directory: Path) -> np.ndarray:
    """Of a graph with the field's usual inputs, an empty cache among them where it has one."""
    session = onnxruntime.InferenceSession(str(directory / "model.onnx"), providers=["CPUExecutionProvider"])
    ids = prompt()
    whole = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "position_ids": np.arange(TOKENS, dtype=np.int64)[None],
    }
    feeds: dict[str, Any] = {}
    for tensor in session.get_inputs():
        if tensor.name in whole:
            feeds[tensor.name] = whole[tensor.name]
        else:  # [batch, heads, past tokens, elements]
            feeds[tensor.name] = np.zeros((1, tensor.shape[1], 0, tensor.shape[3]), np.float32)
    return np.asarray(session.run(["logits"], feeds)[0][0], np.float64)


def export_with_transformers(checkpoint: Path, output: Path) -> None:
    """The exporter of transformers itself, without a cache."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.exporters import exporter_onnx

    model: Any = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    model.config.use_cache = False
    ids = torch.from_numpy(prompt())
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    made: Any = exporter_onnx
    exported = made.OnnxExporter().export(model, inputs, config=made.OnnxConfig(dynamic=True))
    exported.save_pretrained(output)
    print(f"saved {output}")


if __name__ == "__main__":
    export_with_transformers(Path(sys.argv[1]), Path(sys.argv[2]))
