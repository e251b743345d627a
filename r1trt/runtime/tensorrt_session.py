"""Running an engine with TensorRT or TensorRT-RTX.

Not executed yet: this module was written on machines without an NVIDIA GPU. What can be checked there is
tested: that a missing library, driver or engine is reported as such, and that the bindings have these calls.

Legend: B batch, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from r1trt.errors import UnavailableError
from r1trt.runtime.cuda_memory import DeviceBuffer, checked, compute_capability, cuda_runtime
from r1trt.runtime.session import (
    Float32Array,
    Int64Array,
    SessionError,
    SessionLimits,
    check_batch,
    check_step,
)

_MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_PACKAGES = {"tensorrt": "tensorrt-cu13", "tensorrt-rtx": "tensorrt-rtx-cu13"}


class TensorRTSession:
    """An engine with its execution contexts, one an optimization profile, and its caches on the GPU.

    A cache's input and output get one address: TensorRT's cache update writes in place, and requires it.

    Args:
        engine_path: Serialized engine.
        backend: "tensorrt" or "tensorrt-rtx".
        plugin_libraries: Plugin libraries that the engine needs.
        host_code: Whether the engine may carry code for the CPU, as an embedded plugin library is; it is run.

    Raises:
        UnavailableError: No GPU, no driver, or no such TensorRT here.
        SessionError: The engine is of another version or GPU, or its interface is another one.
    """

    def __init__(
        self,
        engine_path: Path,
        *,
        backend: str,
        plugin_libraries: Sequence[Path] = (),
        host_code: bool = False,
    ) -> None:
        self._path = engine_path
        self._cudart = cuda_runtime()
        trt = tensorrt_module(backend)
        logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(logger)
        self._runtime.engine_host_code_allowed = host_code
        for library in plugin_libraries:
            # Refused, with a message, where another session loaded these plugins before; then those are used.
            self._runtime.get_plugin_registry().load_library(str(library))
        self._engine = self._deserialize(backend)
        self._stream = checked(self._cudart.cudaStreamCreate())
        self._contexts = [self._context(profile) for profile in range(self._engine.num_optimization_profiles)]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._cache_names = [name for name in self._inputs if "_cache." in name]
        self._require_float_logits(names, trt)
        self.limits = self._read_limits()
        self._caches: dict[str, DeviceBuffer] = {}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._batch = 0

    def reset(self, batch: int) -> None:
        """Starts `batch` empty sequences."""
        check_batch(self.limits, batch)
        if batch != self._batch:
            self._free(self._caches)
            for name in self._cache_names:
                self._caches[name] = DeviceBuffer(self._cudart, self._cache_bytes(name, batch))
        for cache in self._caches.values():
            # Not only for tidiness: NaN left behind in an unused row would poison attention.
            cache.clear(self._stream)
        self._batch = batch

    def step(self, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array) -> Float32Array:
        """Appends tokens to every sequence; see `LogitsSession.step`."""
        check_step(self.limits, self._batch, input_ids_BS, seq_len_B, past_len_B)
        return self.step_rows(0, input_ids_BS, seq_len_B, past_len_B)

    def step_rows(
        self, first_row: int, input_ids_BS: Int64Array, seq_len_B: Int64Array, past_len_B: Int64Array
    ) -> Float32Array:
        """Appends tokens to the sequences `first_row` to `first_row + B`; the caller has checked the call."""
        B, S = input_ids_BS.shape
        context = self._contexts[self._profile_for(B, S)]
        arrays = {"input_ids": input_ids_BS, "seq_len": seq_len_B, "past_len": past_len_B}
        uploads = {name: np.ascontiguousarray(arrays[name]) for name in self._inputs if name in arrays}
        for name, array in uploads.items():
            self._require(context.set_input_shape(name, array.shape), f"shape {array.shape} of {name}")
            buffer = self._buffer(name, array.nbytes)
            buffer.upload(array, self._stream)
            context.set_tensor_address(name, buffer.address)
        self._bind_caches(context, first_row, B)
        shape = (B, 1 if self.limits.last_token_logits else S, self.limits.vocab_size)
        logits = self._buffer("logits", 4 * math.prod(shape))
        context.set_tensor_address("logits", logits.address)
        # The stream's address as a number; `uploads` lives until the download has synchronized.
        self._require(context.execute_async_v3(int(self._stream)), "the execution")
        return logits.download(shape, self._stream)

    def move_row(self, source: int, target: int) -> None:
        """Copies one sequence's caches to another's place."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        for name, cache in self._caches.items():
            size = self._cache_bytes(name, 1)
            places = (cache.address + target * size, cache.address + source * size)
            checked(self._cudart.cudaMemcpyAsync(*places, size, kind, self._stream))

    def clear_row(self, row: int) -> None:
        """Sets one sequence's caches to zero."""
        for name, cache in self._caches.items():
            size = self._cache_bytes(name, 1)
            checked(self._cudart.cudaMemsetAsync(cache.address + row * size, 0, size, self._stream))

    def row_bytes(self) -> dict[str, int]:
        """Size of one sequence's part of each cache."""
        return {name: self._cache_bytes(name, 1) for name in self._cache_names}

    def close(self) -> None:
        """Frees contexts, engine and device memory."""
        self._free(self._caches)
        self._free(self._buffers)
        self._contexts = []
        self._engine = None
        if self._stream is not None:
            checked(self._cudart.cudaStreamDestroy(self._stream))
            self._stream = None

    def _deserialize(self, backend: str) -> Any:
        if not self._path.is_file():
            raise SessionError("There is no such engine.", where=self._path, fix="build it again")
        engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if engine is None:
            raise SessionError(
                "TensorRT cannot load the engine.",
                where=self._path,
                expected=f"an engine for this GPU and this version of {backend}",
                fix="see TensorRT's own message above; build again with --arch of this machine's GPU",
            )
        return engine

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise SessionError(
                "The GPU has too little free memory for the engine's activations.",
                where=self._path,
                fix="free GPU memory, or build with a smaller --max-input-len or --max-batch-size",
            )
        self._require(
            context.set_optimization_profile_async(profile, int(self._stream)),
            f"optimization profile {profile}",
        )
        checked(self._cudart.cudaStreamSynchronize(self._stream))
        return context

    def _require_float_logits(self, names: Sequence[str], trt: Any) -> None:
        if "logits" not in names or self._engine.get_tensor_dtype("logits") != trt.float32:
            raise SessionError(
                "The engine's interface is not the toolchain's.",
                where=self._path,
                found=f"tensors {list(names)}",
                expected="an FP32 output 'logits'",
            )

    def _read_limits(self) -> SessionLimits:
        logits = self._engine.get_tensor_shape("logits")
        largest = [self._largest_ids(profile) for profile in range(len(self._contexts))]
        capacities = [int(self._engine.get_tensor_shape(name)[2]) for name in self._cache_names[:1]]
        return SessionLimits(
            vocab_size=int(logits[-1]),
            capacity=capacities[0] if capacities else None,
            max_batch_size=max(batch for batch, _ in largest),
            max_input_len=max(tokens for _, tokens in largest),
            last_token_logits=len(logits) == 2,
        )

    def _largest_ids(self, profile: int) -> tuple[int, int]:
        """Largest B and S that a profile accepts."""
        _, _, (B, S) = self._engine.get_tensor_profile_shape("input_ids", profile)
        return int(B), int(S)

    def _profile_for(self, B: int, S: int) -> int:
        """The profile of the shortest calls that holds `[B, S]`: decode for one token, else prefill."""
        largest = [self._largest_ids(profile) for profile in range(len(self._contexts))]
        fitting = [
            (tokens, profile) for profile, (batch, tokens) in enumerate(largest) if batch >= B and tokens >= S
        ]
        if not fitting:
            raise SessionError(
                "No optimization profile of the engine holds this call.",
                found=f"batch {B}, {S} tokens",
                expected=f"one of (batch, tokens) {largest}",
                fix="use a smaller batch, or smaller chunks",
            )
        return min(fitting)[1]

    def _cache_bytes(self, name: str, batch: int) -> int:
        _, *shape = self._engine.get_tensor_shape(name)
        return batch * math.prod(int(size) for size in shape) * int(self._itemsize(name))

    def _itemsize(self, name: str) -> int:
        return int(self._engine.get_tensor_dtype(name).itemsize)

    def _bind_caches(self, context: Any, first_row: int, B: int) -> None:
        for name, cache in self._caches.items():
            _, *shape = self._engine.get_tensor_shape(name)
            self._require(context.set_input_shape(name, (B, *shape)), f"shape of {name}")
            address = cache.address + first_row * self._cache_bytes(name, 1)
            context.set_tensor_address(name, address)
            kind, layer = name.split(".", 1)
            context.set_tensor_address(f"{kind}_out.{layer}", address)

    def _buffer(self, name: str, size: int) -> DeviceBuffer:
        """An input's or the logits' buffer, kept from call to call while it is large enough."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size:
            if buffer is not None:
                buffer.free()
            buffer = self._buffers[name] = DeviceBuffer(self._cudart, size)
        return buffer

    def _free(self, buffers: dict[str, DeviceBuffer]) -> None:
        for buffer in buffers.values():
            buffer.free()
        buffers.clear()

    def _require(self, succeeded: bool, what: str) -> None:
        if not succeeded:
            raise SessionError(
                f"TensorRT refused {what}.", where=self._path, fix="see TensorRT's message above"
            )


def tensorrt_module(backend: str) -> Any:
    """Import a backend's Python module.

    Raises:
        UnavailableError: It is not installed.
    """
    try:
        return importlib.import_module(_MODULES[backend])
    except ImportError as error:
        raise UnavailableError(
            f"The engine needs {backend}, which is not installed.",
            fix=f"pip install {_PACKAGES[backend]}, then run the command again",
        ) from error


def session_from_tensorrt_engine(directory: Path, manifest: Mapping[str, Any]) -> TensorRTSession:
    """Load the engine of a build directory that fits this machine's GPU.

    Raises:
        UnavailableError: No GPU here, none that the build was made for, or no engine was built.
        SessionError: The engine cannot be loaded.
    """
    sm = compute_capability(cuda_runtime())
    engines = {int(str(entry["sm"]).removeprefix("sm")): entry["file"] for entry in manifest["engines"]}
    if sm not in engines:
        raise UnavailableError(
            "The build has no engine for this machine's GPU.",
            where=directory,
            found=f"SM{sm} here; engines for {', '.join(f'SM{built}' for built in engines) or 'none'}",
            fix="build with --arch of this GPU",
        )
    libraries = [directory / name for name in manifest.get("plugin_libraries", [])]
    plugins = manifest.get("plugins") or {}
    return TensorRTSession(
        directory / engines[sm],
        backend=manifest["backend"],
        plugin_libraries=libraries,
        host_code=bool(plugins.get("embedded")),
    )
