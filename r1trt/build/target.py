"""What a build is for: every "auto" resolved, contradictions refused."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.arch import ARCHITECTURES, Architecture, Backend, BuildPrecision, architecture, require_precision
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.config import BuildConfig
from r1trt.build.profile import BuildLimits
from r1trt.config import MlaConfig, ModelConfig
from r1trt.config.length import require_positions, require_window
from r1trt.cuda_driver import compute_capabilities
from r1trt.data_types import DATA_TYPES
from r1trt.errors import ConfigError, UsageError
from r1trt.export.io import ExportedModel
from r1trt.ops.layer_precision import CacheType
from r1trt.precision.implementations import PluginUse
from r1trt.rope import LENGTH_DEPENDENT_KINDS

DEFAULT_BATCH_SIZE = 4
DEFAULT_INPUT_LEN = 512
"""Tokens of a call. On a CPU larger calls were slower, at 2,048 and at 8,192 tokens (docs/building.md)."""
LATENT_SCORE_BYTES = 1 << 30
"""Most bytes of one layer's attention scores by default, where matrix products make them whole."""


@dataclass(frozen=True, kw_only=True)
class BuildTarget:
    """A resolved target.

    Attributes:
        arch: The architecture.
        precision: Precision of the plan.
        backend: Builder.
        sms: Compute capabilities to build for; empty for ONNX Runtime.
        plugins: Which layers become plugins, for the backend "tensorrt".
        kv_cache: Type of the KV cache, for the backend "onnxruntime"; None leaves it to the plan.
    """

    arch: Architecture
    precision: BuildPrecision
    backend: Backend
    sms: tuple[int, ...]
    plugins: PluginUse = "needed"
    kv_cache: CacheType | None = None


def target_from_config(config: BuildConfig, plan_precision: BuildPrecision | None = None) -> BuildTarget:
    """Resolve architecture, precision and builder.

    Args:
        config: The options.
        plan_precision: Precision of the plan file, where one is given.

    Raises:
        ConfigError: No architecture, or a builder that has nothing to do with it.
        PlanError: The architecture lacks the precision.
    """
    if config.arch is None:
        raise UsageError(
            "--arch is missing.",
            expected=" | ".join(ARCHITECTURES),
            fix="say what the engine will run on; only an unfinished build knows it already",
        )
    arch = architecture(config.arch)
    precision = config.precision or plan_precision or arch.default_precision
    if plan_precision is not None and precision != plan_precision:
        raise ConfigError(
            "The plan is of another precision.", where=config.plan, found=plan_precision, expected=precision
        )
    require_precision(arch, precision)
    backend = _backend(config, arch)
    require_timing_cache_fits(config, backend)
    return BuildTarget(
        arch=arch,
        precision=precision,
        backend=backend,
        sms=_targets(backend, arch),
        plugins=_plugin_use(config, backend),
        kv_cache=_kv_cache(config, arch, backend),
    )


def require_timing_cache_fits(config: BuildConfig, backend: Backend) -> None:
    """Refuse to be given a timing cache for a builder that would ignore it.

    Raises:
        ConfigError: The builder times nothing.
    """
    if config.timing_cache is not None and backend != "tensorrt":
        raise UsageError(
            "--timing-cache is for the builder tensorrt: TensorRT-RTX and ONNX Runtime time nothing.",
            found=f"--backend {backend}",
            fix="leave it out, or build with --backend tensorrt",
        )


def _plugin_use(config: BuildConfig, backend: Backend) -> PluginUse:
    if config.plugins is not None and backend != "tensorrt":
        raise UsageError(
            "--plugins is for the builder tensorrt: the others take none.",
            found=f"--backend {backend}",
            fix="leave it out, or build with --backend tensorrt",
        )
    return config.plugins or "needed"


def _kv_cache(config: BuildConfig, arch: Architecture, backend: Backend) -> CacheType | None:
    if config.kv_cache is not None and backend != "onnxruntime":
        raise UsageError(
            "--kv-cache is for --arch cpu: elsewhere the cache has the type that the plan gives attention.",
            found=f"--arch {arch.name}",
            fix="leave it out; with --bf16, --int8 or --fp8 the cache is BF16",
        )
    return config.kv_cache


def _backend(config: BuildConfig, arch: Architecture) -> Backend:
    backend = arch.backend if config.backend == "auto" else config.backend
    if (backend == "onnxruntime") != (not arch.sms):
        raise UsageError(f"--backend {backend} does not build for --arch {arch.name}.", expected=arch.backend)
    if backend == "tensorrt-rtx" and not arch.offline_sms:
        raise UsageError(
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
    exported = export.artifact.manifest.capacity
    capacity = (config.max_seq_len or exported) if config.cache else None
    if capacity is not None and capacity != exported:
        _require_possible(capacity, exported, export.config)
    batch = config.max_batch_size or DEFAULT_BATCH_SIZE
    limits = BuildLimits(
        max_batch_size=batch,
        max_input_len=config.max_input_len or _default_input_len(config, export.config, capacity, batch),
        capacity=capacity,
    )
    if capacity is None:
        require_window(export.config, limits.max_input_len, "--max-input-len")
    return limits


def _default_input_len(config: BuildConfig, model: ModelConfig, capacity: int | None, batch: int) -> int:
    """Tokens of a call: fewer where the scores of latent attention would grow too large (docs/models.md)."""
    longest = DEFAULT_INPUT_LEN if capacity is None else min(DEFAULT_INPUT_LEN, capacity)
    heads = [layer.attention.num_heads for layer in model.layers if isinstance(layer.attention, MlaConfig)]
    if not heads or config.arch is None or _backend(config, architecture(config.arch)) != "tensorrt-rtx":
        return longest
    bytes_a_token = batch * max(heads) * (capacity or longest) * DATA_TYPES["bf16"].bytes
    return max(1, min(longest, LATENT_SCORE_BYTES // bytes_a_token))


def _require_possible(capacity: int, exported: int, model: ModelConfig) -> None:
    if model.rope.kind in LENGTH_DEPENDENT_KINDS:
        raise ConfigError(
            f"RoPE frequencies of kind '{model.rope.kind}' were frozen at the export's --max-seq-len.",
            found=capacity,
            expected=exported,
            fix=f"run `r1trt export` with --max-seq-len {capacity}",
        )
    require_positions(model, capacity, "--max-seq-len")
    require_window(model, capacity, "--max-seq-len")
