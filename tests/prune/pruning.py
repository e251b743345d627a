"""Tiny checkpoints to prune, the text that they are scored on, and what removed experts mean to a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.checkpoint import checkpoint_from_dir
from r1trt.evaluate.models import LOGITS, model_from_session
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.families import family_of
from r1trt.model import load_checkpoint
from r1trt.prune.config import PruneConfig
from r1trt.prune.prune import prune_checkpoint
from r1trt.prune.result import PruneResult
from r1trt.runtime.graph_session import session_from_export
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

TEXT = "The cat sat on the mat, and 17 other things happened on 3 May. " * 40
HELDOUT = "A dog of another house barked: who knows what it had seen? Nobody asked, and so it slept. " * 40
TOKENS, CHUNK = 300, 64
Logits = NDArray[np.float32]


def exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory)))


def chunks_of(checkpoint: Path) -> TokenChunks:
    return token_chunks([tokenizer_from_dir(checkpoint).encode(TEXT)], length=CHUNK, tokens=TOKENS)


def config_for(checkpoint: Path, directory: Path, **options: Any) -> PruneConfig:
    """A pruning of few tokens, whose texts lie in the directory, and whose result does."""
    texts = {"calibration": TEXT, "heldout": HELDOUT}
    for name, text in texts.items():
        (directory / f"{name}.txt").write_text(text)
    defaults: dict[str, Any] = {
        "output": directory / "pruned",
        "calibration_tokens": TOKENS,
        "heldout_tokens": TOKENS,
        **{name: directory / f"{name}.txt" for name in texts},
    }
    return PruneConfig(checkpoint=checkpoint, **{**defaults, **options})


def pruned(checkpoint: Path, directory: Path, **options: Any) -> tuple[PruneResult, Path]:
    config = config_for(checkpoint, directory, **options)
    return prune_checkpoint(config), config.output


def module_of(checkpoint: Path) -> Any:
    """A checkpoint in PyTorch, in FP32: by transformers where it knows the family, else our reference."""
    if family_of(checkpoint_from_dir(checkpoint).config).in_transformers:
        model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
        return model.eval()
    return load_checkpoint(checkpoint, torch.float32)


@torch.no_grad()
def logits_of(module: Any, ids: Sequence[int]) -> Logits:
    result = module(torch.tensor(ids)[None])
    logits: Logits = getattr(result, "logits", result)[0].numpy()
    return logits


def logits_of_export(checkpoint: Path, directory: Path, ids: Sequence[int]) -> Logits:
    session = session_from_export(exported(checkpoint, directory).artifact)
    try:
        return model_from_session(session)(np.array(ids))[LOGITS]
    finally:
        session.close()


@contextmanager
def masked(module: Any, removed: Mapping[int, Sequence[int]]) -> Iterator[None]:
    """Within the block the module's routers cannot select some experts, by layer.

    A sigmoid's experts are selected by their scores and a bias, which becomes -inf; a softmax's by its
    probabilities, and their logits become -inf in front of it.
    """
    masks: dict[int, list[int]] = {}
    for layer, experts in removed.items():
        mlp = module.model.layers[layer].mlp
        router: nn.Module = mlp.gate if hasattr(mlp, "gate") else mlp.router
        bias = getattr(router, "e_score_correction_bias", None)
        if bias is not None:
            bias.data[list(experts)] = -torch.inf
        else:
            masks[router.weight.data_ptr()] = list(experts)

    def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = plain(x, weight, bias)
        if weight.data_ptr() in masks:
            y[..., masks[weight.data_ptr()]] = -torch.inf
        return y

    plain = functional.linear
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functional, "linear", linear)
        yield
