"""The generation model, as Triton's Python backend calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton

from r1trt.errors import R1TrtError
from r1trt.frontends.triton.orphan import exit_without_server
from r1trt.frontends.triton.responses import ResponseWriter, error_response
from r1trt.frontends.triton.triton_metrics import TritonMetrics
from r1trt.runtime.tokenizer import tokenizer_from_dir
from r1trt.serving.inputs import INPUTS, call_from_tensors
from r1trt.serving.loop import SchedulerThread
from r1trt.serving.metrics import REFUSED
from r1trt.serving.request import Client
from r1trt.serving.scheduler import Scheduler, SchedulerConfig
from r1trt.serving.session import serving_session

_LIMITS = ("chunk_tokens", "token_budget", "max_queue")


class TritonPythonModel:
    """Owns the engine, the KV cache and the scheduler; requests of any number are in flight at once."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """The configuration in the repository is complete."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine that lies beside this model's version.

        Raises:
            TritonModelException: It cannot be loaded; the server reports the model as not ready.
        """
        exit_without_server()
        parameters = _parameters(json.loads(args["model_config"]))
        engine = (Path(args["model_repository"]) / args["model_version"] / "engine").resolve()
        try:
            self._tokenizer = tokenizer_from_dir(engine)
            self._session = serving_session(
                engine, parameters.get("rows", 1), threads=parameters.get("threads")
            )
            limits = {name: parameters[name] for name in _LIMITS if name in parameters}
            self._metrics = TritonMetrics({"model": args["model_name"], "version": args["model_version"]})
            scheduler = Scheduler(self._session, self._tokenizer, SchedulerConfig(**limits), self._metrics)
        except R1TrtError as error:
            raise triton.TritonModelException(str(error)) from error
        self._capacity = self._session.limits.capacity or 0
        self._thread = SchedulerThread(scheduler)

    def execute(self, requests: list[Any]) -> None:
        """Takes requests; their answers come later, from the scheduler's thread."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._submit(request, sender)
            except R1TrtError as error:
                self._metrics.add(REFUSED)
                self._metrics.flush()
                sender.send(error_response(error), flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        """Ends what runs, with an error to its clients."""
        self._thread.close()
        self._session.close()

    def _submit(self, request: Any, sender: Any) -> None:
        tensors = {tensor.name: triton.get_input_tensor_by_name(request, tensor.name) for tensor in INPUTS}
        arrays = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        parameters = json.loads(request.parameters() or "{}")
        call = call_from_tensors(arrays, parameters, self._tokenizer, self._capacity)
        writer = ResponseWriter(sender, call)
        self._thread.submit(call.request, Client(send=writer.send, is_cancelled=sender.is_cancelled))


def _parameters(config: dict[str, Any]) -> dict[str, int]:
    """The integers among the configuration's parameters."""
    values = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
    wrong = [name for name, value in values.items() if not value.isdecimal()]
    if wrong:
        raise triton.TritonModelException(f"parameters that are not integers: {', '.join(wrong)}")
    return {name: int(value) for name, value in values.items()}
