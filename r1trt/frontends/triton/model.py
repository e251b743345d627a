"""The generation model, as Triton's Python backend calls it."""

from __future__ import annotations

import faulthandler
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton

from r1trt.artifacts.repository import ServedModelDirectory
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.lanes import Lanes
from r1trt.cluster.open import opened_lanes
from r1trt.errors import R1TrtError
from r1trt.frontends.triton.orphan import exit_without_server
from r1trt.frontends.triton.responses import ResponseWriter, error_response
from r1trt.frontends.triton.tensors import values_from_tensors
from r1trt.frontends.triton.triton_metrics import TritonMetrics
from r1trt.runtime.sampling_defaults import sampling_defaults_from_dir
from r1trt.serving.call import call_from_values
from r1trt.serving.config import ServingConfig
from r1trt.serving.fields import REQUEST_FIELDS
from r1trt.serving.metrics import REFUSED
from r1trt.serving.pinned import pinned_ids, prompt_from_file
from r1trt.serving.request import Client
from r1trt.serving.scheduler import Scheduler
from r1trt.serving.scheduler_thread import SchedulerThread
from r1trt.serving.session import serving_session
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir


class TritonPythonModel:
    """Owns the engine, the KV cache and the scheduler; any number of requests may be in flight."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """The configuration in the repository is complete."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the engine that lies beside this model's version.

        Raises:
            TritonModelException: It cannot be loaded; the server reports the model as not ready.
        """
        faulthandler.enable()  # a crash of this process is then told in the server's log
        exit_without_server()
        model = ServedModelDirectory(path=Path(args["model_repository"]), number=args["model_version"])
        engine = model.engine
        self._stack = ExitStack()
        try:
            self._tokenizer = tokenizer_from_dir(engine)
            self._defaults = sampling_defaults_from_dir(engine)
            config = _config(json.loads(args["model_config"]))
            self._metrics = TritonMetrics({"model": args["model_name"], "version": args["model_version"]})
            opened = self._scheduled(model, config)
            self._requests, self._capacity = self._stack.enter_context(opened)
        except R1TrtError as error:
            raise triton.TritonModelException(str(error)) from error

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
        """Ends the running requests with an error."""
        self._stack.close()
        self._metrics.close()

    @contextmanager
    def _scheduled(
        self, model: ServedModelDirectory, config: ServingConfig
    ) -> Iterator[tuple[SchedulerThread | Lanes, int]]:
        """What takes requests, and the tokens that each may have."""
        if config.cluster is not None:
            # A node knows the engine's own directory, and not the link in this model's.
            stages = ClusterConfig(directory=model.engine.resolve(), rows=config.rows, threads=config.threads)
            shared = (self._tokenizer, config.scheduler, self._metrics)
            with opened_lanes(config.cluster, stages, *shared, _report) as lanes:
                yield lanes
            return
        session = serving_session(model.engine, config.rows, threads=config.threads)
        pinned = _pinned(model.pinned_prompt, self._tokenizer)
        scheduler = Scheduler(session, self._tokenizer, config.scheduler, self._metrics, pinned=pinned)
        thread = SchedulerThread(scheduler)
        try:
            yield thread, session.limits.capacity or 0
        finally:
            thread.close()
            session.close()

    def _submit(self, request: Any, sender: Any) -> None:
        names = [field.name for field in REQUEST_FIELDS]
        tensors = {name: triton.get_input_tensor_by_name(request, name) for name in names}
        arrays = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
        values = values_from_tensors(arrays, json.loads(request.parameters() or "{}"))
        call = call_from_values(values, self._tokenizer, self._capacity, self._defaults)
        writer = ResponseWriter(sender, call, self._tokenizer)
        self._requests.submit(call.request, Client(send=writer.send, is_cancelled=sender.is_cancelled))


def _report(text: str) -> None:
    """Into the server's log, at once."""
    print(f"r1trt: {text}", file=sys.stderr, flush=True)


def _pinned(path: Path, tokenizer: TextTokenizer) -> list[int]:
    """Tokens of the prompt to pin, where the repository has one."""
    return pinned_ids(prompt_from_file(path), tokenizer) if path.exists() else []


def _config(model_config: dict[str, Any]) -> ServingConfig:
    parameters = model_config.get("parameters", {})
    return ServingConfig.from_parameters({name: value["string_value"] for name, value in parameters.items()})
