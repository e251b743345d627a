"""Running an engine with TensorRT or TensorRT-RTX.

Not executed yet: this module was written on machines without an NVIDIA GPU. What can be checked there is
tested: that a missing library, driver or engine is reported as such, and that the bindings have these calls.

Legend: B rows of one call, S tokens of one call, V vocabulary, C cache capacity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from r1trt.artifacts.build import BuildArtifact
from r1trt.runtime.cuda_memory import DeviceBuffer, checked, cuda_runtime
from r1trt.runtime.expert_source import ExpertSource, expert_source
from r1trt.runtime.session import (
    LOGITS,
    Int64Array,
    Outputs,
    Session,
    SessionError,
    SessionLimits,
    cache_output,
    is_cache_input,
)
from r1trt.runtime.session_checks import check_cache_memory, check_call, check_rows
from r1trt.runtime.tensorrt_engine import (
    EngineFile,
    engine_file_from_build,
    load_engine,
    require_float_logits,
    tensorrt_module,
)

# What TensorRT promises to accept as the address of an input.
_ALIGNMENT = 256
_SWAP = "swap"
"""A buffer of no input: of a row on its way to another place."""


class TensorRTSession(Session):
    """An engine with its execution contexts, one an optimization profile, and its caches on the GPU.

    A cache's input and output get one address: TensorRT's cache update writes in place, and requires it.

    Args:
        file: The engine.
        experts: What its inputs for expert stacks are read from; None where it has none.

    Raises:
        UnavailableError: No GPU, no driver, or no such TensorRT here.
        SessionError: The engine is of another version or GPU, or its interface is another one.
        CheckpointError: A shard with experts cannot be read.
    """

    def __init__(self, file: EngineFile, experts: ExpertSource | None = None) -> None:
        self._path = file.path
        self._cudart = cuda_runtime()
        trt = tensorrt_module(file.backend)
        self._runtime, self._engine = load_engine(file, trt)
        self._stream = checked(self._cudart.cudaStreamCreate())
        self._contexts = [self._context(profile) for profile in range(self._engine.num_optimization_profiles)]
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self._inputs = [name for name in names if is_input[name]]
        self._cache_names = [name for name in self._inputs if is_cache_input(name)]
        require_float_logits(self._engine, names, trt, self._path)
        self.limits = self._read_limits()
        self.rows = 0
        self._caches: dict[str, DeviceBuffer] = {}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._stacks: dict[str, DeviceBuffer] = {}
        if experts is not None:
            self._load_stacks(experts)

    def reset(self, rows: int) -> None:
        """Starts a table of `rows` empty sequences."""
        check_rows(self.limits, rows)
        if rows != self.rows:
            self._free(self._caches)
            self.rows = 0
            needed = sum(self._cache_bytes(name, rows) for name in self._cache_names)
            free, _ = checked(self._cudart.cudaMemGetInfo())
            check_cache_memory(self.limits, rows, needed=needed, room=free, memory="the GPU's free memory")
            for name in self._cache_names:
                self._caches[name] = DeviceBuffer(self._cudart, self._cache_bytes(name, rows))
        for cache in self._caches.values():
            # Not only for tidiness: NaN left behind in an unused row would poison attention.
            cache.clear(self._stream)
        self.rows = rows

    def run(
        self,
        input_ids_BS: Int64Array,
        seq_len_B: Int64Array,
        past_len_B: Int64Array,
        first_row: int = 0,
        *,
        only_last: bool = False,
    ) -> Outputs:
        """Appends tokens to a range of rows; see `Session.run`, but `only_last` changes nothing."""
        check_call(self.limits, self.rows, first_row, input_ids_BS, seq_len_B, past_len_B)
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
        logits = self._buffer(LOGITS, 4 * math.prod(shape))
        context.set_tensor_address(LOGITS, logits.address)
        # The stream's address as a number; `uploads` lives until the download has synchronized.
        self._require(context.execute_async_v3(int(self._stream)), "the execution")
        return {LOGITS: logits.download(shape, self._stream)}

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copies one row to another, all of it: its tokens lie scattered over the heads."""
        for name, cache in self._caches.items():
            size = self._cache_bytes(name, 1)
            self._copy(cache.address + target * size, cache.address + source * size, size)

    def swap(self, row: int, other: int, tokens: int) -> None:
        """Exchanges two rows, all of them, through a buffer of one cache's row."""
        for name, cache in self._caches.items():
            size = self._cache_bytes(name, 1)
            places = (cache.address + row * size, cache.address + other * size)
            between = self._buffer(_SWAP, size).address
            self._copy(between, places[0], size)
            self._copy(places[0], places[1], size)
            self._copy(places[1], between, size)

    def clear(self, row: int) -> None:
        """Sets one row of every cache to zero."""
        for name, cache in self._caches.items():
            size = self._cache_bytes(name, 1)
            checked(self._cudart.cudaMemsetAsync(cache.address + row * size, 0, size, self._stream))

    def profile_with(self, profiler: Any) -> None:
        """Lets an `IProfiler` be told the time of each layer from now on, which makes calls slower."""
        for context in self._contexts:
            context.profiler = profiler

    def description(self, trt: Any) -> str:
        """What TensorRT's inspector says of the engine's layers, as JSON.

        Args:
            trt: TensorRT's module.
        """
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Frees contexts, engine and device memory."""
        self._free(self._caches)
        self._free(self._buffers)
        self._free(self._stacks)
        self._contexts = []
        self._engine = None
        if self._stream is not None:
            checked(self._cudart.cudaStreamDestroy(self._stream))
            self._stream = None

    def _load_stacks(self, experts: ExpertSource) -> None:
        """Stacks experts on the GPU, piece by piece as shards are read, and binds them for all calls."""
        for stack in experts.stacks:
            buffer = self._stacks[stack.name] = DeviceBuffer(self._cudart, stack.bytes)
            start = 0
            for rows in experts.rows(stack):
                piece = np.ascontiguousarray(rows).reshape(-1).view(np.uint8)
                buffer.upload(piece, self._stream, start)
                # NOTES: the next piece may take this one's memory.
                checked(self._cudart.cudaStreamSynchronize(self._stream))
                start += piece.size
            for context in self._contexts:
                self._require(context.set_tensor_address(stack.name, buffer.address), f"input {stack.name}")

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

    def _read_limits(self) -> SessionLimits:
        logits = self._engine.get_tensor_shape(LOGITS)
        largest = [self._largest_ids(profile) for profile in range(len(self._contexts))]
        capacities = [int(self._engine.get_tensor_shape(name)[2]) for name in self._cache_names[:1]]
        return SessionLimits(
            vocab_size=int(logits[-1]),
            capacity=capacities[0] if capacities else None,
            max_batch_size=max(batch for batch, _ in largest),
            max_input_len=max(tokens for _, tokens in largest),
            last_token_logits=len(logits) == 2,
            addressable_rows=all(self._cache_bytes(name, 1) % _ALIGNMENT == 0 for name in self._cache_names),
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

    def _cache_bytes(self, name: str, rows: int) -> int:
        _, *shape = self._engine.get_tensor_shape(name)
        itemsize = int(self._engine.get_tensor_dtype(name).itemsize)
        return rows * math.prod(int(size) for size in shape) * itemsize

    def _bind_caches(self, context: Any, first_row: int, B: int) -> None:
        for name, cache in self._caches.items():
            _, *shape = self._engine.get_tensor_shape(name)
            self._require(context.set_input_shape(name, (B, *shape)), f"shape of {name}")
            address = cache.address + first_row * self._cache_bytes(name, 1)
            context.set_tensor_address(name, address)
            context.set_tensor_address(cache_output(name), address)

    def _copy(self, target: int, source: int, size: int) -> None:
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        checked(self._cudart.cudaMemcpyAsync(target, source, size, kind, self._stream))

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


def session_from_tensorrt_engine(build: BuildArtifact) -> TensorRTSession:
    """Load the engine of a build that fits this machine's GPU.

    Raises:
        UnavailableError: No GPU here, none that the build was made for, or no engine was built.
        SessionError: The engine cannot be loaded.
        CheckpointError: A shard with experts is not the one that it was built from.
    """
    cudart = cuda_runtime()
    return TensorRTSession(engine_file_from_build(build, cudart), expert_source(build))
