"""Takes the TensorRT backend's place in a server without a GPU: the engine's file holds an ONNX graph.

With it the real server loads a repository whose configuration says `tensorrt_plan`, checks requests against
the configuration, batches them and answers. It says nothing about TensorRT.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """An instance; named and called by Triton's Python backend."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return config

    def initialize(self, args: dict[str, str]) -> None:
        name = json.loads(args["model_config"])["default_model_filename"]
        path = Path(args["model_repository"]) / args["model_version"] / name
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        feed = {
            value.name: triton.get_input_tensor_by_name(request, value.name).as_numpy()
            for value in self._session.get_inputs()
        }
        # Triton's Python backend knows nothing of `reshape`, which the TensorRT backend applies.
        feed["seq_len"] = np.reshape(feed["seq_len"], -1)
        outputs = self._session.run(None, feed)
        names = [value.name for value in self._session.get_outputs()]
        return triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(names, outputs, strict=True)])
