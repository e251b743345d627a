"""A six-layer R1-ASA whose layers differ: attributes edited node by node, and a reference that knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from numpy.typing import NDArray
from r1_asa_reference import Reference
from tiny_checkpoints import write_r1_asa

from r1trt.config import LayerConfig
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.model import load_checkpoint
from r1trt.ops.hla_attention import INTER_BLOCKS

LAYERS, CAPACITY = 6, 64
ATTENTION, MOE = "self_attn.attention", "mlp.moe"


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One layer's attributes; the checkpoint's own where nothing is said."""

    top_k: int = 2
    lam_skip: float = 0.0
    inter_block: int = 0


# Layers 0 and 5 are equal, layers 1 to 4 differ from them and from each other.
EDITS: tuple[Edit, ...] = (
    Edit(),
    Edit(top_k=3),
    Edit(lam_skip=0.45),
    Edit(inter_block=1),
    Edit(top_k=1, lam_skip=0.3, inter_block=1),
    Edit(),
)


def six_layers(directory: Path, **overrides: Any) -> ExportedModel:
    """Write and export a checkpoint of six MoE layers with a shared expert."""
    checkpoint = write_r1_asa(
        directory / "checkpoint",
        num_hidden_layers=LAYERS,
        num_shared_experts=1,
        shared_intermediate_size=32,
        tokenizer=True,
        **overrides,
    )
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    return load_export(export_checkpoint(config))


def edit_nodes(model: ir.Model, edits: tuple[Edit, ...] = EDITS) -> None:
    """Write the edits into the nodes' attributes, as somebody who edits the graph would."""
    nodes = {str(node.name): node for node in model.graph}
    for layer, edit in enumerate(edits):
        moe, attention = (nodes.get(f"model.layers.{layer}.{name}") for name in (MOE, ATTENTION))
        if moe is not None:  # a dense layer has none
            moe.attributes["top_k"] = ir.AttrInt64("top_k", edit.top_k)
        assert attention is not None
        attention.attributes["lam_skip"] = ir.AttrFloat32("lam_skip", edit.lam_skip)
        attention.attributes["inter_block"] = ir.AttrInt64("inter_block", edit.inter_block)


def edited_reference(checkpoint: Path, edits: tuple[Edit, ...] = EDITS) -> Reference:
    """The FP64 reference with each layer's own attributes."""
    module = load_checkpoint(checkpoint, torch.float32)
    tensors = {name: parameter.detach().numpy() for name, parameter in module.state_dict().items()}
    layers = tuple(_edited(layer, edit) for layer, edit in zip(module.config.layers, edits, strict=True))
    config = replace(module.config, layers=layers)
    return Reference(config, tensors, module.rope.inv_freq, module.rope.attention_factor)


def _edited(layer: LayerConfig, edit: Edit) -> LayerConfig:
    hla = replace(layer.attention.hla, lam_skip=edit.lam_skip, inter_block=INTER_BLOCKS[edit.inter_block])
    mlp = replace(layer.mlp, top_k=edit.top_k)
    return replace(layer, attention=replace(layer.attention, hla=hla), mlp=mlp)


def session_of(model: ir.Model, weight_base: Path) -> onnxruntime.InferenceSession:
    """Run a graph from memory with the weights that it points to."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weight_base))
    return onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)


def logits_of(session: onnxruntime.InferenceSession, ids: list[int]) -> NDArray[np.float32]:
    """Logits [S,V] of one prompt with empty caches."""
    feeds: Mapping[str, Any] = {
        "input_ids": np.array([ids]),
        "seq_len": np.array([len(ids)]),
        "past_len": np.array([0]),
    }
    inputs = {
        item.name: feeds[item.name] if item.name in feeds else np.zeros([1, *item.shape[1:]], np.float32)
        for item in session.get_inputs()
    }
    logits: NDArray[np.float32] = session.run(["logits"], inputs)[0][0]
    return logits


def relative_error(found: NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference over the largest expected magnitude."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())
