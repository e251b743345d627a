"""What MODEL names: a known shape, a configuration, a checkpoint, an export, or a build with its own plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1trt.arch import BuildPrecision, architecture, require_precision
from r1trt.artifacts import BuildArtifact, ExportArtifact, read_artifact
from r1trt.artifacts.directory import ModelDirectory
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.config.length import require_positions, require_window
from r1trt.cuda_driver import cuda_driver
from r1trt.errors import ConfigError, UsageError
from r1trt.estimate.gpus import DEVICE_OF_ARCH, DEVICES, Device, device_of_driver_name
from r1trt.estimate.planned import PlannedModel, planned_model, planned_model_from_plan
from r1trt.estimate.source import (
    SizedModel,
    sized_model,
    sized_model_from_config,
    sized_model_from_export,
)
from r1trt.precision.plan_file import load_plan
from r1trt.profile.requests import RequestBatch
from r1trt.strict_json import json_object_from_file

DEFAULT_DEVICE = "h100"
_TOKENS = "prompt_tokens + new_tokens - 1"


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is to be profiled.

    Attributes:
        kind: What MODEL is, in words.
        sized: The model as far as its size goes.
        tokenizer: Directory with its tokenizer; None where there is none.
        capacity: Rows of its KV cache in tokens; None where that is still open, and for scoring builds.
        max_batch_size: Most rows of a call; None for any.
        max_input_len: Most tokens of a row in a call; None for any.
        last_token_logits: Logits are computed for the last token of each sequence alone.
        build: The build, if it is one.
    """

    kind: str
    sized: SizedModel
    tokenizer: Path | None = None
    capacity: int | None = None
    max_batch_size: int | None = None
    max_input_len: int | None = None
    last_token_logits: bool = False
    build: BuildArtifact | None = None

    @property
    def has_cache(self) -> bool:
        """Whether it generates; a scoring build reads prompts only."""
        return self.build is None or self.build.manifest.cache

    @property
    def longest(self) -> int:
        """Most tokens of a sequence."""
        config = self.sized.config
        limits = (self.capacity, config.max_position_embeddings, config.window)
        room = min(limit for limit in limits if limit is not None)
        return room if self.has_cache or self.max_input_len is None else min(room, self.max_input_len)

    def default_device(self) -> Device:
        """Of a build the GPU here that it is for, or one of its architecture; else an H100."""
        if self.build is None:
            return DEVICES[DEFAULT_DEVICE]
        arch = self.build.manifest.arch
        here = (device_of_driver_name(gpu.name) for gpu in cuda_driver().gpus)
        fitting = (device for device in here if device is not None and device.arch == arch)
        return next(fitting, DEVICES[DEVICE_OF_ARCH[arch]])

    def require_fits(self, requests: RequestBatch) -> None:
        """Raises ConfigError for requests that the model, or the build, does not take."""
        config, name = self.sized.config, self.sized.name
        require_positions(config, requests.tokens, _TOKENS, where=name)
        require_window(config, requests.tokens, _TOKENS, where=name)
        limits = {
            "requests at a time": (requests.size, self.max_batch_size),
            f"tokens ({_TOKENS})": (requests.tokens, self.capacity),
        }
        if not self.has_cache:
            limits["new tokens, of a build for scoring,"] = (requests.new_tokens, 1)
            limits["tokens of a prompt, which a build for scoring reads in one call,"] = (
                requests.longest,
                self.max_input_len,
            )
        for what, (found, most) in limits.items():
            if most is not None and found > most:
                raise ConfigError(
                    f"There are more {what} than this {self.kind} takes.",
                    where=name,
                    found=found,
                    expected=f"at most {most}",
                    fix="change the file of --input, or export and build with larger limits",
                )

    def planned(
        self, device: Device, precision: BuildPrecision | None, requests: RequestBatch
    ) -> PlannedModel:
        """The model in types: a build's own, or those that the rules give for a device.

        Raises:
            R1TrtError: The device lacks the precision, or a build's plan is damaged.
        """
        if self.build is not None:
            if precision is not None:
                raise UsageError(
                    "A build has its types: --precision is for models that are not built yet.",
                    found=f"--precision {precision}",
                    fix="leave it out",
                )
            plan, capacity = load_plan(self.build.precision_plan), self.capacity
            return planned_model_from_plan(
                self.sized, plan, capacity, last_token_logits=self.last_token_logits
            )
        arch = architecture(device.arch)
        precision = precision or ("bf16" if arch.sms else "fp32")
        require_precision(arch, precision)
        capacity = self.capacity or requests.tokens
        return planned_model(
            self.sized, arch.name, precision, capacity, last_token_logits=self.last_token_logits
        )


def subject_from_name(source: str) -> Subject:
    """Finds what a user names.

    Args:
        source: A checkpoint, export or build directory, a config.json, or a known model's name.

    Raises:
        R1TrtError: There is nothing of this name, it is damaged, or it is no model.
    """
    path = Path(source)
    if path.is_dir() and (path / MANIFEST_FILE).exists():
        return _from_artifact(path)
    sized = sized_model(source)
    if path.is_dir():
        return Subject(kind="checkpoint", sized=sized, tokenizer=_tokenizer(path))
    if path.is_file():
        return Subject(kind="configuration", sized=sized, tokenizer=_tokenizer(path.parent))
    return Subject(kind="known model", sized=sized)


def _from_artifact(path: Path) -> Subject:
    artifact = read_artifact(path)
    if isinstance(artifact, ExportArtifact):
        return Subject(
            kind="export",
            sized=sized_model_from_export(artifact),
            tokenizer=_tokenizer(path),
            capacity=artifact.manifest.capacity,
            last_token_logits=artifact.manifest.last_token_logits,
        )
    if isinstance(artifact, BuildArtifact):
        return _from_build(artifact)
    raise ConfigError(
        "This directory holds nothing that can be profiled.",
        where=path,
        found=f"kind {artifact.manifest.KIND!r}",
        expected="a checkpoint, an export or a build",
    )


def _from_build(build: BuildArtifact) -> Subject:
    manifest = build.manifest
    name, raw = manifest.source.model_name, json_object_from_file(build.config)
    return Subject(
        kind="build",
        sized=sized_model_from_config(name, raw, where=build.config),
        tokenizer=_tokenizer(build.path),
        capacity=manifest.capacity if manifest.cache else None,
        max_batch_size=manifest.max_batch_size,
        max_input_len=manifest.max_input_len,
        last_token_logits=manifest.last_token_logits,
        build=build,
    )


def _tokenizer(directory: Path) -> Path | None:
    return directory if ModelDirectory(path=directory).tokenizer.exists() else None
