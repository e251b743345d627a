"""What a build is asked for, and what that comes to: every "auto" resolved, contradictions refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1trt.arch import Architecture, Backend, architecture, require_precision
from r1trt.artifacts.store import ArtifactError, read_manifest
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.profile import BuildLimits
from r1trt.config import ModelConfig
from r1trt.cuda_driver import compute_capabilities
from r1trt.errors import ConfigError
from r1trt.export.io import ExportedModel
from r1trt.precision.plan import PlanKind
from r1trt.rope import LENGTH_DEPENDENT_KINDS

BackendOption = Literal["auto", "tensorrt", "tensorrt-rtx", "onnxruntime"]

DEFAULT_BATCH_SIZE = 4
DEFAULT_INPUT_LEN = 512
DEFAULT_ENGINES = Path("engines")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Options of a build.

    Attributes:
        model: Export directory, or an unfinished build; None takes the newest export under `engines/`.
        arch: `--arch`; may be left out for an unfinished build.
        precision: None takes the architecture's own.
        plan: Precision plan to use in place of the rules'.
        calibration: Text to measure FP8 scales on; None takes the package's.
        backend: Builder.
        max_batch_size: Rows of a call at most; None means 4.
        max_input_len: Tokens of a call at most; None means 512, or the capacity where that is less.
        max_seq_len: Tokens of the KV cache; None takes the export's.
        cache: False builds a scoring engine without a KV cache.
        output: Build directory; None means `<model>/<arch>-<precision>`.
        plugin_library: Library with the three operators' plugins, for the backend "tensorrt"; None looks for
            one that was built before.
        embed_plugins: Whether the engine carries the plugin library.
    """

    model: Path | None = None
    arch: str | None = None
    precision: PlanKind | None = None
    plan: Path | None = None
    calibration: Path | None = None
    backend: BackendOption = "auto"
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    cache: bool = True
    output: Path | None = None
    plugin_library: Path | None = None
    embed_plugins: bool = False

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_input_len", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} is too small.", found=value, expected=">= 1")
        if self.plan is not None and self.calibration is not None:
            raise ConfigError("--plan and --calibration exclude each other: a plan brings its scales.")
        if not self.cache and self.max_seq_len is not None:
            raise ConfigError("--max-seq-len is the KV cache's capacity, and --no-cache builds none.")


@dataclass(frozen=True, kw_only=True)
class BuildTarget:
    """A resolved build.

    Attributes:
        arch: The architecture.
        precision: Precision of the plan.
        backend: Builder.
        sms: Compute capabilities to build for; empty for ONNX Runtime.
    """

    arch: Architecture
    precision: PlanKind
    backend: Backend
    sms: tuple[int, ...]


def target_from_config(config: BuildConfig, plan_precision: PlanKind | None) -> BuildTarget:
    """Resolve architecture, precision and builder.

    Args:
        config: The options.
        plan_precision: Precision of the plan file, where one is given.

    Raises:
        ConfigError: No architecture, or a builder that has nothing to do with it.
        PlanError: The architecture lacks the precision.
    """
    if config.arch is None:
        raise ConfigError(
            "--arch is missing.",
            expected="ampere | ada | hopper | blackwell | cpu",
            fix="say what the engine will run on; only an unfinished build knows it already",
        )
    arch = architecture(config.arch)
    precision = config.precision or plan_precision or arch.default_precision
    if plan_precision is not None and precision != plan_precision:
        raise ConfigError(
            "The plan is of another precision.", where=config.plan, found=plan_precision, expected=precision
        )
    require_precision(arch, precision)
    backend = _backend(config.backend, arch)
    return BuildTarget(arch=arch, precision=precision, backend=backend, sms=_targets(backend, arch))


def _backend(option: BackendOption, arch: Architecture) -> Backend:
    natural: Backend = "tensorrt-rtx" if arch.offline_sms else "tensorrt"
    if not arch.sms:
        natural = "onnxruntime"
    backend = natural if option == "auto" else option
    if (backend == "onnxruntime") != (not arch.sms):
        raise ConfigError(f"--backend {backend} does not build for --arch {arch.name}.", expected=natural)
    if backend == "tensorrt-rtx" and not arch.offline_sms:
        raise ConfigError(
            f"TensorRT-RTX does not build for --arch {arch.name}.",
            found=", ".join(f"SM{sm}" for sm in arch.sms),
            fix="use --backend tensorrt on a machine with that GPU",
        )
    return backend


def _targets(backend: Backend, arch: Architecture) -> tuple[int, ...]:
    if backend == "onnxruntime":
        return ()
    if BUILDER_APIS[backend].names_target:
        return arch.offline_sms
    here = tuple(sm for sm in arch.sms if sm in compute_capabilities())
    return here or arch.sms


def limits_from_config(config: BuildConfig, export: ExportedModel) -> BuildLimits:
    """The engine's limits. Raises ConfigError where they contradict each other or the model."""
    exported = int(export.manifest["capacity"])
    capacity = (config.max_seq_len or exported) if config.cache else None
    if capacity is not None and capacity != exported:
        _require_possible(capacity, exported, export.config)
    longest = DEFAULT_INPUT_LEN if capacity is None else min(DEFAULT_INPUT_LEN, capacity)
    return BuildLimits(
        max_batch_size=config.max_batch_size or DEFAULT_BATCH_SIZE,
        max_input_len=config.max_input_len or longest,
        capacity=capacity,
    )


def _require_possible(capacity: int, exported: int, model: ModelConfig) -> None:
    if model.rope.kind in LENGTH_DEPENDENT_KINDS:
        raise ConfigError(
            f"RoPE frequencies of kind '{model.rope.kind}' were frozen at the export's --max-seq-len.",
            found=capacity,
            expected=exported,
            fix=f"run `r1trt export` with --max-seq-len {capacity}",
        )
    if capacity > model.max_position_embeddings and not model.rope.temperature_alpha:
        raise ConfigError(
            "--max-seq-len is beyond the positions that the model was made for.",
            found=capacity,
            expected=f"at most max_position_embeddings = {model.max_position_embeddings}",
        )


def newest_export(engines: Path = DEFAULT_ENGINES) -> Path:
    """The export under `engines` whose manifest was written last.

    Raises:
        ConfigError: There is none.
    """
    found = []
    for manifest in engines.glob("*/manifest.json"):
        try:
            if read_manifest(manifest.parent)["kind"] == "export":
                found.append((manifest.stat().st_mtime_ns, manifest.parent))
        except ArtifactError:
            continue
    if not found:
        raise ConfigError(
            "There is no export to build from.",
            where=engines.resolve(),
            fix="run `r1trt export CHECKPOINT` first, or name an export directory",
        )
    return max(found)[1]
