"""A language model in PyTorch as something to compare with.

Legend: T tokens of one window, V vocabulary, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from r1trt.evaluate.models import LOGITS, Model, Outputs, layer_output

if TYPE_CHECKING:
    from torch import nn


def model_from_module(module: nn.Module) -> Model:
    """A module of `transformers` or of `r1trt.model`: logits, and every layer's result.

    Args:
        module: Called with token ids [1, T]; returns logits [1, T, V], or an object that has them. Hooks are
            put on its decoder layers `module.model.layers`, where there are any, and stay there.
    """
    layers: Outputs = {}
    for index, layer in enumerate(getattr(getattr(module, "model", None), "layers", ())):
        layer.register_forward_hook(_keep(layers, layer_output(index)))

    def run(input_ids_T: npt.NDArray[np.int64]) -> Outputs:
        import torch

        with torch.inference_mode():
            result = module(torch.from_numpy(input_ids_T)[None])
        return {LOGITS: _array(getattr(result, "logits", result)), **layers}

    return run


def _keep(kept: Outputs, name: str) -> Callable[..., None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        kept[name] = _array(output[0] if isinstance(output, tuple) else output)

    return hook


def _array(batch: Any) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = batch[0].float().cpu().numpy()
    return array
