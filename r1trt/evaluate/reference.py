"""The checkpoint itself, in FP32: by `transformers` where it knows the architecture, else by our own module.

Legend: S tokens of one sequence, V vocabulary, D hidden size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from r1trt.errors import CheckpointError, UnavailableError

Outputs = dict[str, npt.NDArray[np.float32]]

LOGITS = "logits"


def layer_output(layer: int) -> str:
    """Name of a layer's result, the residual stream after it [S, D], as its node in the graph is named."""
    return f"model.layers.{layer}.mlp_residual"


class ReferenceModel:
    """A checkpoint in PyTorch.

    Args:
        checkpoint: Hugging Face directory.
        family: Of its configuration, as in `ModelConfig.family`.
        capacity: Cache rows of the graphs to compare with; some RoPE kinds depend on it.

    Raises:
        UnavailableError: torch or transformers is not installed.
        CheckpointError: The checkpoint cannot be loaded.
    """

    def __init__(self, checkpoint: Path, *, family: str, capacity: int | None) -> None:
        try:
            self._model, self._is_transformers = _load(checkpoint, family, capacity)
        except ImportError as error:
            raise UnavailableError(
                "Comparing with the checkpoint needs torch and transformers.",
                found=error,
                fix="pip install 'r1trt[torch]', then run the command again",
            ) from error
        self._layers: Outputs = {}
        for index, layer in enumerate(self._model.model.layers):
            layer.register_forward_hook(self._keep(layer_output(index)))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            self._layers[name] = tensor[0].float().numpy()

        return hook

    def run(self, input_ids_S: npt.NDArray[np.int64]) -> Outputs:
        """Returns logits [S, V] and every layer's result [S, D], of a whole sequence without a cache."""
        import torch

        ids = torch.from_numpy(input_ids_S)[None]
        with torch.inference_mode():
            if self._is_transformers:
                logits = self._model(input_ids=ids, use_cache=False).logits
            else:
                logits = self._model(ids)
        return {LOGITS: logits[0].float().numpy(), **self._layers}


def _load(checkpoint: Path, family: str, capacity: int | None) -> tuple[Any, bool]:
    import torch

    if family == "r1_asa":
        from r1trt.model import load_checkpoint

        return load_checkpoint(checkpoint, torch.float32, max_seq_len=capacity), False
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
    return cast(Any, model).eval(), True
