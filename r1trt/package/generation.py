"""The generation model of a Triton repository: its configuration, and the directory that Triton runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from r1trt.artifacts.build import BuildManifest
from r1trt.artifacts.repository import ServedModelDirectory
from r1trt.package.limits import GenerationLimits
from r1trt.package.serving_code import ENTRY, copy_serving_code
from r1trt.package.triton_config import model_config_text, triton_schema
from r1trt.serving.fields import REQUEST_FIELDS, RESPONSE_FIELDS, Field
from r1trt.serving.pinned import pinned_ids, require_room
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig as TritonModelConfig

_MODEL_PY = f'''"""The generation model; its code is in `python/`, its engine in `engine/`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).absolute().parent / "python"))

from {ENTRY} import TritonPythonModel  # the name that Triton asks this file for

__all__ = ["TritonPythonModel"]
'''


def write_generation_model(
    directory: ServedModelDirectory, engine: Path, manifest: BuildManifest, limits: GenerationLimits
) -> None:
    """Writes a model directory without its engine, which has to be put there, or linked.

    Args:
        directory: Where; it does not exist yet.
        engine: Where the engine's tokenizer is.
        manifest: The engine's.
        limits: How requests share the model.

    Raises:
        ConfigError: The engine was built for fewer rows; or a pinned prompt fills a row of its cache, or is
            refused by the chat template.
    """
    if limits.pinned_prompt is not None:
        # Here, and not when Triton loads the model, whose errors are hard to read.
        tokens = pinned_ids(limits.pinned_prompt, tokenizer_from_dir(engine))
        require_room(len(tokens), manifest.capacity or 0)
    directory.version.mkdir(parents=True)
    config = generation_config(directory.path.name, manifest, limits)
    directory.configuration.write_text(model_config_text(config))
    if limits.pinned_prompt is not None:
        directory.pinned_prompt.write_text(limits.pinned_prompt, encoding="utf-8")
    write_warmup_data(directory.warmup)
    directory.program.write_text(_MODEL_PY)
    copy_serving_code(directory.code)


def generation_config(name: str, manifest: BuildManifest, limits: GenerationLimits) -> TritonModelConfig:
    """The model's configuration, for Triton's Python backend.

    Raises:
        ConfigError: The engine was built for fewer rows.
    """
    schema = triton_schema()
    # Batching is the model's own, so a request is one row; 1 and not 0, since the front ends send [1, 1].
    config: TritonModelConfig = schema.ModelConfig(name=name, backend="python", max_batch_size=1)
    config.model_transaction_policy.decoupled = True
    for field in REQUEST_FIELDS:
        _add_tensor(config.input.add(optional=True), field)
    for field in RESPONSE_FIELDS:
        _add_tensor(config.output.add(), field)
    for key, value in limits.for_engine(manifest).to_parameters().items():
        config.parameters[key].string_value = value
    # The model finds its GPU itself: Triton's own placement would only say which of several.
    config.instance_group.add(count=1, kind=schema.ModelInstanceGroup.KIND_CPU)
    _add_warmup(config)
    return config


def _add_tensor(message: Any, field: Field) -> None:
    message.name = field.name
    message.data_type = triton_schema().DataType.Value(f"TYPE_{field.dtype}")
    message.dims.append(-1 if field.is_list else 1)


def _add_warmup(config: TritonModelConfig) -> None:
    """One request before the server reports ready: the first call of a model allocates."""
    schema = triton_schema()
    warmup = config.model_warmup.add(name="two tokens", batch_size=1)
    warmup.inputs["text_input"].data_type = schema.TYPE_STRING
    warmup.inputs["text_input"].dims.append(1)
    warmup.inputs["text_input"].input_data_file = "prompt"
    warmup.inputs["max_tokens"].data_type = schema.TYPE_INT32
    warmup.inputs["max_tokens"].dims.append(1)
    warmup.inputs["max_tokens"].input_data_file = "max_tokens"


def write_warmup_data(warmup: Path) -> None:
    """Writes the files that the configuration's warm-up names."""
    warmup.mkdir()
    text = b"Hello"
    (warmup / "prompt").write_bytes(len(text).to_bytes(4, "little") + text)
    (warmup / "max_tokens").write_bytes((2).to_bytes(4, "little"))
