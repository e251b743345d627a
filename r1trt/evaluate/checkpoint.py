"""The checkpoint in FP32: by `transformers` where it knows the architecture, else by our own module."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

from r1trt.config import ModelConfig
from r1trt.errors import CheckpointError, UnavailableError
from r1trt.evaluate.models import Model
from r1trt.evaluate.torch_model import model_from_module
from r1trt.families import family_of

if TYPE_CHECKING:
    from torch import nn


def model_from_checkpoint(checkpoint: Path, *, config: ModelConfig, capacity: int | None) -> Model:
    """A checkpoint as a model to compare with; see `module_from_checkpoint`."""
    return model_from_module(module_from_checkpoint(checkpoint, config=config, capacity=capacity))


def module_from_checkpoint(checkpoint: Path, *, config: ModelConfig, capacity: int | None) -> nn.Module:
    """Load a checkpoint in PyTorch, in FP32 on the CPU.

    Args:
        checkpoint: Hugging Face directory.
        config: Its configuration.
        capacity: Cache rows of the graphs to compare with; some RoPE kinds depend on it.

    Raises:
        UnavailableError: torch or transformers is not installed.
        CheckpointError: The checkpoint cannot be loaded.
    """
    try:
        if family_of(config).in_transformers:
            return _transformers_module(checkpoint)
        return _own_module(checkpoint, capacity)
    except ImportError as error:
        raise UnavailableError(
            "Comparing with the checkpoint needs torch and transformers.",
            found=error,
            fix="pip install 'r1trt[torch]', then run the command again",
        ) from error


def _own_module(checkpoint: Path, capacity: int | None) -> nn.Module:
    import torch

    from r1trt.model import load_checkpoint

    return load_checkpoint(checkpoint, torch.float32, max_seq_len=capacity)


def _transformers_module(checkpoint: Path) -> nn.Module:
    import torch
    import transformers

    # Its progress bar would mix with ours.
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = transformers.AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=torch.float32, local_files_only=True
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            "transformers cannot load the checkpoint.", where=checkpoint, found=error
        ) from error
    # A window is read in one call; a cache would be filled and thrown away.
    model.config.use_cache = False
    return cast("nn.Module", model).eval()
