"""Calls a plugin library the way TensorRT does, through the compiled harness."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from r1trt.plugin_checks.cases.case import CheckFailure

FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64 = range(9)
FIELD_FLOAT32, FIELD_FLOAT64, FIELD_INT32, FIELD_CHAR, FIELD_INT64 = 1, 2, 5, 6, 10
BUILD, RUNTIME = 0, 1
LINEAR, CHW32 = 0, 5
ERROR, WARNING, VERBOSE = 1, 2, 4
TENSORRT_11 = 110100
TENSORRT_10 = 101401

NUMPY_TYPES: Mapping[int, Any] = {
    FLOAT: np.float32,
    HALF: np.float16,
    BF16: ml_dtypes.bfloat16,
    FP8: ml_dtypes.float8_e4m3fn,
    INT32: np.int32,
    INT64: np.int64,
}
MAX_DIMS = 8


@dataclass(frozen=True)
class Tensor:
    """A tensor of a layer; `low` and `high` are the profile's bounds, by default its dimensions."""

    type: int
    dims: tuple[int, ...]
    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()
    format: int = LINEAR


class _TensorArgument(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int32), ("format", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("padding", ctypes.c_int32),
        ("dims", ctypes.c_int64 * MAX_DIMS), ("min", ctypes.c_int64 * MAX_DIMS),
        ("opt", ctypes.c_int64 * MAX_DIMS), ("max", ctypes.c_int64 * MAX_DIMS),
    ]  # fmt: skip


class _FieldArgument(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char_p), ("data", ctypes.c_void_p), ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    ]  # fmt: skip


def _tensors(tensors: Sequence[Tensor]) -> ctypes.Array[_TensorArgument]:
    array = (_TensorArgument * max(1, len(tensors)))()
    for item, tensor in zip(array, tensors, strict=False):
        item.type, item.format, item.rank = tensor.type, tensor.format, len(tensor.dims)
        for name, dims in (
            ("dims", tensor.dims),
            ("min", tensor.low or tensor.dims),
            ("opt", tensor.high or tensor.dims),
            ("max", tensor.high or tensor.dims),
        ):
            getattr(item, name)[: len(dims)] = dims
    return array


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy in memory that is aligned as a GPU's is."""
    memory = np.zeros(array.nbytes + 256, np.uint8)
    offset = -memory.ctypes.data % 256
    result = memory[offset : offset + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


@dataclass(frozen=True)
class Field:
    """A plugin field with any type and length, right or wrong."""

    name: str
    values: Sequence[float]
    type: int

    def data(self) -> np.ndarray:
        """The values as TensorRT hands them over."""
        kinds = {
            FIELD_FLOAT32: np.float32,
            FIELD_FLOAT64: np.float64,
            FIELD_INT32: np.int32,
            FIELD_INT64: np.int64,
        }
        return np.array(self.values, kinds.get(self.type, np.int8))


def fields_from(attributes: Mapping[str, float]) -> list[Field]:
    """Fields as TensorRT's ONNX parser makes them: INT32 from integers, FLOAT32 from floats."""
    return [
        Field(name, [value], FIELD_INT32 if isinstance(value, int) else FIELD_FLOAT32)
        for name, value in attributes.items()
    ]


@dataclass
class Harness:
    """The compiled harness. One process has one; it holds the logger's messages."""

    path: Path
    symbols_are_global: bool = False
    library: ctypes.CDLL = field(init=False)

    def __post_init__(self) -> None:
        self.library = ctypes.CDLL(
            str(self.path), mode=ctypes.RTLD_GLOBAL if self.symbols_are_global else ctypes.RTLD_LOCAL
        )
        for name in ("open", "create", "clone", "attach", "restore"):
            getattr(self.library, f"harness_{name}").restype = ctypes.c_void_p
        for name in ("creators", "describe", "output_shapes", "serialize", "messages", "registered"):
            getattr(self.library, f"harness_{name}").restype = ctypes.c_char_p
        self.library.harness_workspace.restype = ctypes.c_size_t
        self.messages()  # what was said to an earlier user of this process's harness

    def set_version(self, version: int) -> None:
        """What getInferLibVersion answers, and so the layouts that the library meets."""
        self.library.harness_set_version(version)

    def open(self, path: Path) -> PluginLibraryUnderTest:
        """Loads a plugin library as TensorRT does."""
        handle = self.library.harness_open(str(path).encode())
        if not handle:
            raise CheckFailure(f"{path} is refused: {self.messages()}")
        return PluginLibraryUnderTest(self, handle)

    def messages(self) -> list[tuple[int, str]]:
        """Severity and text of what the loggers got since the last call."""
        return [(severity, text) for severity, text in json.loads(self.library.harness_messages())]

    def errors(self) -> list[str]:
        """The errors among the messages since the last call."""
        return [text for severity, text in self.messages() if severity <= ERROR]

    def registered(self) -> list[str]:
        """Names of the creators that the library registered by itself."""
        names: list[str] = json.loads(self.library.harness_registered())
        return names


class PluginLibraryUnderTest:
    """A loaded plugin library."""

    def __init__(self, harness: Harness, handle: int) -> None:
        self.harness = harness
        self._handle = ctypes.c_void_p(handle)
        self.creators = json.loads(harness.library.harness_creators(self._handle))

    def create(
        self, operator: str, fields: Sequence[Field], *, layer: str = "layer", phase: int = BUILD
    ) -> PluginUnderTest | None:
        """Runs createPlugin; None if it refuses."""
        data = [item.data() for item in fields]
        arguments = (_FieldArgument * max(1, len(fields)))()
        for argument, item, values in zip(arguments, fields, data, strict=False):
            argument.name, argument.type, argument.length = item.name.encode(), item.type, len(item.values)
            argument.data = values.ctypes.data if len(item.values) else None
        plugin = self.harness.library.harness_create(
            self._handle, self._index(operator), layer.encode(), arguments, len(fields), phase
        )
        return PluginUnderTest(self, operator, plugin) if plugin else None

    def restore(self, plugin: PluginUnderTest, *, layer: str = "") -> PluginUnderTest:
        """Makes a plugin from what another serialized."""
        made = self.harness.library.harness_restore(
            self._handle, self._index(plugin.operator), plugin.handle, layer.encode()
        )
        if not made:
            raise CheckFailure(f"{plugin.operator} is not restored: {self.harness.messages()}")
        return PluginUnderTest(self, plugin.operator, made)

    def _index(self, operator: str) -> int:
        return [creator["name"] for creator in self.creators].index(operator)


class PluginUnderTest:
    """A plugin, destroyed with this object."""

    def __init__(self, library: PluginLibraryUnderTest, operator: str, handle: int) -> None:
        self.library = library
        self.operator = operator
        self.handle = ctypes.c_void_p(handle)
        self._calls = library.harness.library

    def __del__(self) -> None:
        self._calls.harness_destroy(self.handle)

    def messages(self) -> str:
        """What the loggers got since the last call, one message a line."""
        return "\n".join(text for _, text in self.library.harness.messages())

    def clone(self) -> PluginUnderTest:
        """What clone makes."""
        return PluginUnderTest(self.library, self.operator, self._calls.harness_clone(self.handle))

    def attach(self) -> PluginUnderTest:
        """What attachToContext makes."""
        return PluginUnderTest(self.library, self.operator, self._calls.harness_attach(self.handle))

    def describe(self) -> dict[str, Any]:
        """Names, versions and counts that the plugin says of itself."""
        description: dict[str, Any] = json.loads(self._calls.harness_describe(self.handle))
        return description

    def serialize(self) -> list[dict[str, Any]]:
        """The fields that the plugin serializes."""
        fields: list[dict[str, Any]] = json.loads(self._calls.harness_serialize(self.handle))
        return fields

    def output_types(self, inputs: Sequence[int], count: int) -> list[int] | None:
        """Types of the outputs for types of the inputs; None if the plugin refuses."""
        given = (ctypes.c_int32 * len(inputs))(*inputs)
        types = (ctypes.c_int32 * count)()
        status = self._calls.harness_output_types(self.handle, given, len(inputs), types, count)
        return list(types) if status == 0 else None

    def output_shapes(self, inputs: Sequence[Tensor], count: int) -> list[list[str]] | None:
        """Shapes of the outputs, as expressions of the inputs' dimensions; None if the plugin refuses."""
        text = self._calls.harness_output_shapes(self.handle, _tensors(inputs), len(inputs), count)
        return None if text is None else json.loads(text)

    def supports(self, position: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        """Whether the plugin takes the type and format at a position."""
        tensors = _tensors([*inputs, *outputs])
        return bool(self._calls.harness_supports(self.handle, position, tensors, len(inputs), len(outputs)))

    def configure(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        """Runs configurePlugin; whether the plugin takes these tensors."""
        return self._layer_call("configure", inputs, outputs) == 0

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        """Bytes of workspace that the plugin asks for."""
        return self._layer_call("workspace", inputs, outputs)

    def aliased_input(self, output: int) -> int:
        """The input that an output shares its memory with; -1 for none."""
        return int(self._calls.harness_aliased_input(self.handle, output))

    def on_shape_change(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
        """Runs onShapeChange; whether the plugin takes these shapes."""
        return self._layer_call("on_shape_change", inputs, outputs) == 0

    def enqueue(
        self,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        input_pointers: Sequence[int],
        output_pointers: Sequence[int],
        workspace: int = 0,
        stream: int = 0,
    ) -> bool:
        """Runs enqueue on addresses, of the CPU's or of a GPU's memory, as the library is built."""
        status = self._calls.harness_enqueue(
            self.handle,
            *(_tensors(inputs), len(inputs), _tensors(outputs), len(outputs)),
            *((ctypes.c_void_p * len(input_pointers))(*input_pointers),),
            *((ctypes.c_void_p * len(output_pointers))(*output_pointers),),
            *(ctypes.c_void_p(workspace), ctypes.c_void_p(stream)),
        )
        return bool(status == 0)

    def _layer_call(self, name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> int:
        function = getattr(self._calls, f"harness_{name}")
        return int(function(self.handle, _tensors(inputs), len(inputs), _tensors(outputs), len(outputs)))
