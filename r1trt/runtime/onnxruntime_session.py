"""Running graphs with ONNX Runtime on the CPU: exports, the typed graph's simulation and `cpu` engines.

Legend: B batch, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from r1trt.errors import UnavailableError
from r1trt.runtime.session import (
    Float32Array,
    Int64Array,
    SessionError,
    SessionLimits,
    check_batch,
    check_step,
)

# Without it ONNX Runtime would look for the weights in the working directory: it is given bytes, not a path.
_WEIGHT_DIRECTORY = "session.model_external_initializers_file_folder_path"
_ERRORS_ONLY = 3
# Above this many bytes of weights, casting them once at load takes minutes and doubles the memory.
_FOLD_BELOW_BYTES = 1 << 30


class OnnxRuntimeSession:
    """A graph with the interface of the toolchain, its caches updated in place.

    A cache's input and output are bound to one buffer. ONNX Runtime's TensorScatter then writes the new rows
    only; otherwise it would copy the whole cache at every call. This is right because nothing in our graphs
    reads a cache's old contents after its update.

    Args:
        model_path: The ONNX file.
        weight_base: Directory that external data is relative to; None means the file's own.
        threads: Threads of one operator; None leaves it to ONNX Runtime.
        keep_qdq: Let ONNX Runtime fuse Q/DQ pairs into quantized kernels. Off, a Q/DQ pair computes what it
            says, which is what a comparison needs.
        fold_constants: Compute constant parts once, at load. Needs memory for the results: casting BF16
            weights to FP32 doubles them.
        extra_outputs: Values of the graph to return from `run` as well: result's name -> value's name.
        max_batch_size: Limit to enforce.
        max_input_len: Limit to enforce.

    Raises:
        SessionError: ONNX Runtime cannot load the graph, or its interface is another one.
        UnavailableError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        weight_base: Path | None = None,
        threads: int | None = None,
        keep_qdq: bool = False,
        fold_constants: bool = True,
        extra_outputs: Mapping[str, str] | None = None,
        max_batch_size: int | None = None,
        max_input_len: int | None = None,
    ) -> None:
        self._path = model_path
        self._extra = dict(extra_outputs or {})
        model = _load_graph(model_path, self._extra)
        self._cache_shapes = {
            value.name: _static_tail(value)
            for value in model.graph.input
            if value.name.startswith(("key_cache.", "value_cache.", "latent_cache."))
        }
        self.limits = SessionLimits(
            vocab_size=_vocab_size(model, model_path),
            capacity=next((shape[-2] for shape in self._cache_shapes.values()), None),
            max_batch_size=max_batch_size,
            max_input_len=max_input_len,
            last_token_logits=_logits_rank(model) == 2,
        )
        self._session = _load_session(
            model, weight_base or model_path.parent, model_path, _options(threads, keep_qdq, fold_constants)
        )
        self._input_names = frozenset(value.name for value in self._session.get_inputs())
        self._caches: dict[str, Any] = {}
        self._batch = 0

    def reset(self, batch: int) -> None:
        """Starts `batch` empty sequences."""
        import onnxruntime

        check_batch(self.limits, batch)
        # A fresh allocation rather than a clearing: NaN left behind in an unused row would poison attention.
        self._caches = {
            name: onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((batch, *shape), np.float32))
            for name, shape in self._cache_shapes.items()
        }
        self._batch = batch

    def step(self, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array) -> Float32Array:
        """Appends tokens to every sequence; see `LogitsSession.step`."""
        return self.run(input_ids_BS, seq_len_B, past_len_B)["logits"]

    def run(
        self, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Like `step`, but also returns `extra_outputs`, by the names they were asked for."""
        check_step(self.limits, self._batch, input_ids_BS, seq_len_B, past_len_B)
        binding = self._session.io_binding()
        lengths = {"input_ids": input_ids_BS, "seq_len": seq_len_B, "past_len": past_len_B}
        for name, array in lengths.items():
            if name in self._input_names:
                binding.bind_cpu_input(name, np.ascontiguousarray(array))
        for name, cache in self._caches.items():
            binding.bind_ortvalue_input(name, cache)
            binding.bind_ortvalue_output(_cache_output(name), cache)
        wanted = ["logits", *self._extra.values()]
        for name in wanted:
            binding.bind_output(name)
        self._execute(binding)
        # Outputs come in the order of binding: the caches first.
        arrays = [value.numpy() for value in binding.get_outputs()[len(self._caches) :]]
        results = dict(zip(["logits", *self._extra], arrays, strict=True))
        if self.limits.last_token_logits:
            results["logits"] = results["logits"][:, None]
        return results

    def _execute(self, binding: Any) -> None:
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise SessionError("ONNX Runtime failed at a call.", where=self._path, found=error) from error

    def close(self) -> None:
        """Frees the model and its caches."""
        self._caches = {}
        self._session = None


def session_from_export(
    directory: Path,
    manifest: Mapping[str, Any],
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> OnnxRuntimeSession:
    """Load `model.onnx` of an export directory, with the weights that it points to.

    Raises:
        R1TrtError: The weights changed since, or the graph cannot be loaded.
    """
    from r1trt.export.io import weight_base_of

    return OnnxRuntimeSession(
        directory / "model.onnx",
        weight_base=weight_base_of(directory, dict(manifest)),
        threads=threads,
        fold_constants=sum(file["bytes"] for file in manifest["weights"]["files"]) < _FOLD_BELOW_BYTES,
        extra_outputs=extra_outputs,
    )


def session_from_cpu_engine(
    directory: Path, manifest: Mapping[str, Any], *, threads: int | None = None
) -> OnnxRuntimeSession:
    """Load `cpu.onnx` of a build directory for `--arch cpu`."""
    return OnnxRuntimeSession(
        directory / "cpu.onnx",
        threads=threads,
        max_batch_size=manifest["max_batch_size"],
        max_input_len=manifest["max_input_len"],
    )


def session_from_simulation(
    directory: Path,
    manifest: Mapping[str, Any],
    *,
    threads: int | None = None,
    extra_outputs: Mapping[str, str] | None = None,
) -> OnnxRuntimeSession:
    """Load `simulated.onnx` of a build directory: the typed graph's arithmetic, roundings included."""
    weights = directory / "weights.safetensors"
    return OnnxRuntimeSession(
        directory / "simulated.onnx",
        threads=threads,
        fold_constants=not weights.is_file() or weights.stat().st_size < _FOLD_BELOW_BYTES,
        extra_outputs=extra_outputs,
        max_batch_size=manifest["max_batch_size"],
        max_input_len=manifest["max_input_len"],
    )


def _cache_output(name: str) -> str:
    kind, layer = name.split(".", 1)
    return f"{kind}_out.{layer}"


def _load_graph(path: Path, extra_outputs: Mapping[str, str]) -> onnx.ModelProto:
    if not path.is_file():
        raise SessionError("There is no such graph.", where=path, fix="export or build again")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own error types vary with its implementation
        raise SessionError(
            "The graph cannot be read.", where=path, found=error, fix="build it again"
        ) from error
    existing = {value.name for value in model.graph.output}
    for name in extra_outputs.values():
        if name not in existing:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return model


def _static_tail(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """A cache's shape without its batch."""
    return tuple(dimension.dim_value for dimension in value.type.tensor_type.shape.dim[1:])


def _logits(model: onnx.ModelProto) -> onnx.ValueInfoProto | None:
    return next((value for value in model.graph.output if value.name == "logits"), None)


def _logits_rank(model: onnx.ModelProto) -> int:
    logits = _logits(model)
    return len(logits.type.tensor_type.shape.dim) if logits is not None else 0


def _vocab_size(model: onnx.ModelProto, path: Path) -> int:
    logits = _logits(model)
    dimensions = logits.type.tensor_type.shape.dim if logits is not None else []
    if not dimensions or dimensions[-1].dim_value < 1:
        raise SessionError(
            "The graph's interface is not the toolchain's.",
            where=path,
            found=f"outputs {[value.name for value in model.graph.output]}",
            expected="an output 'logits' [B, S, V] or [B, V] with a fixed V",
        )
    return int(dimensions[-1].dim_value)


def _options(threads: int | None, keep_qdq: bool, fold_constants: bool) -> dict[str, Any]:
    return {
        "threads": threads or 0,
        "entries": {} if keep_qdq else {"session.disable_quant_qdq": "1"},
        "disabled": [] if fold_constants else ["ConstantFolding"],
    }


def _load_session(model: onnx.ModelProto, weight_base: Path, path: Path, options: Mapping[str, Any]) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            "ONNX Runtime is not installed.", fix="pip install 'r1trt[cpu]', then run the command again"
        ) from error
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = _ERRORS_ONLY
    settings.intra_op_num_threads = options["threads"]
    settings.add_session_config_entry(_WEIGHT_DIRECTORY, str(weight_base.resolve()))
    for key, value in options["entries"].items():
        settings.add_session_config_entry(key, value)
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(),
            settings,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=options["disabled"],
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        raise SessionError(
            "ONNX Runtime cannot load the graph.",
            where=path,
            found=error,
            fix="check that the weight files are complete (r1trt inspect), or build again",
        ) from error
