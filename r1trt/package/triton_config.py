"""A Triton model configuration: built from a graph's interface, printed as protobuf text, parsed."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import text_format

from r1trt.data_types import DATA_TYPES
from r1trt.errors import ExportError, UnavailableError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonModelConfig

# ONNX element type to Triton's; FP8 has none.
_TYPES = {row.onnx_name: row.triton for row in DATA_TYPES.values() if row.triton is not None}
# Every engine takes a prompt of one token.
WARMUP_TOKENS = 1


@dataclass(frozen=True, kw_only=True)
class TensorInterface:
    """One input or output of the engine's graph.

    Attributes:
        name: The tensor's name.
        dtype: ONNX element type, such as "FLOAT".
        dims: Sizes without the leading batch dimension; -1 where the size varies from call to call.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class EngineInterface:
    """What a server has to know of an engine.

    Attributes:
        model_name: Directory name and name that clients ask for.
        platform: Triton's platform, which names the backend and the file format.
        files: File names in the version directory, by compute capability ("8.9"), or "" for every machine's.
        inputs: Inputs in order; none is a cache.
        outputs: Outputs in order.
        max_batch_size: Rows of a call, at most.
    """

    model_name: str
    platform: str
    files: Mapping[str, str]
    inputs: Sequence[TensorInterface]
    outputs: Sequence[TensorInterface]
    max_batch_size: int


def triton_schema() -> Any:
    """Triton's own schema: the generated protobuf module.

    Raises:
        UnavailableError: `tritonclient` is not installed.
    """
    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise UnavailableError(
            "Triton's configuration schema is not installed.", found=error, fix="pip install 'r1trt[triton]'"
        ) from error
    return model_config_pb2


def model_config_from_interface(interface: EngineInterface) -> TritonModelConfig:
    """Writes an engine's interface in Triton's terms, as a stateless model.

    Triton counts dimensions without the batch; a `[B]` tensor is declared `[1]` and reshaped to nothing. For
    TensorRT the server chooses where instances run: on every GPU that it has.
    """
    schema = triton_schema()
    config: TritonModelConfig = schema.ModelConfig(
        name=interface.model_name, platform=interface.platform, max_batch_size=interface.max_batch_size
    )
    for tensor in interface.inputs:
        _add_tensor(config.input.add(), tensor)
    for tensor in interface.outputs:
        _add_tensor(config.output.add(), tensor)
    # Requests of equal length that wait at the same time share a call.
    config.dynamic_batching.SetInParent()
    group = config.instance_group.add(count=1)
    if interface.platform != "tensorrt_plan":
        group.kind = schema.ModelInstanceGroup.KIND_CPU
    _add_files(config, interface)
    _add_warmup(config, interface)
    return config


def write_warmup_data(warmup: Path) -> None:
    """Writes the files that a stateless model's warm-up names."""
    warmup.mkdir()
    (warmup / "seq_len").write_bytes(struct.pack("<q", WARMUP_TOKENS))


def model_config_text(config: TritonModelConfig) -> str:
    """The configuration as `config.pbtxt` holds it."""
    text: str = text_format.MessageToString(config)
    return text


def model_config_from_text(text: str, *, where: Path) -> TritonModelConfig:
    """Parses protobuf text with Triton's own schema.

    Raises:
        ExportError: A field is unknown or has the wrong type; the message gives line and column.
    """
    config: TritonModelConfig = triton_schema().ModelConfig()
    try:
        text_format.Parse(text, config)
    except (text_format.ParseError, ValueError, RecursionError) as error:  # a number of no type, nesting
        raise ExportError(
            "Triton's schema refuses the model configuration.", where=where, found=error
        ) from error
    return config


def _triton_type(tensor: TensorInterface) -> int:
    if tensor.dtype not in _TYPES:
        raise ExportError(
            "Triton has no such tensor type.",
            where=f"tensor {tensor.name}",
            found=tensor.dtype,
            expected=", ".join(_TYPES),
        )
    value: int = triton_schema().DataType.Value(_TYPES[tensor.dtype])
    return value


def _add_tensor(message: Any, tensor: TensorInterface) -> None:
    message.name = tensor.name
    message.data_type = _triton_type(tensor)
    if tensor.dims:
        message.dims.extend(tensor.dims)
    else:
        message.dims.append(1)
        message.reshape.SetInParent()


def _add_files(config: TritonModelConfig, interface: EngineInterface) -> None:
    """One file is the default; of several each belongs to a compute capability."""
    if len(interface.files) == 1:
        (config.default_model_filename,) = interface.files.values()
        return
    for compute_capability, file in interface.files.items():
        config.cc_model_filenames[compute_capability] = file


def _add_warmup(config: TritonModelConfig, interface: EngineInterface) -> None:
    """One call before the server reports ready: the first call of an engine allocates."""
    warmup = config.model_warmup.add(name="one token", batch_size=1)
    for tensor in interface.inputs:
        value = warmup.inputs[tensor.name]
        value.data_type = _triton_type(tensor)
        value.dims.extend([WARMUP_TOKENS if size == -1 else size for size in tensor.dims] or [1])
        if tensor.name == "seq_len":
            value.input_data_file = "seq_len"
        else:
            value.zero_data = True
