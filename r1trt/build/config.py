"""What a build is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from r1trt.arch import Backend, BuildPrecision
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.export import ExportManifest
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.calibrate.options import PERCENTILE, TOKENS, CalibrationMethod, CalibrationOptions
from r1trt.errors import ConfigError, UsageError
from r1trt.ops.layer_precision import CacheType
from r1trt.precision.implementations import PluginUse
from r1trt.precision.rules import Requantize

BackendOption = Backend | Literal["auto"]

DEFAULT_ENGINES = Path("engines")
_SCALES = ("calibration_method", "calibration_percentile")
_TEXT = ("calibration", "calibration_tokens")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    """Options of a build.

    Attributes:
        model: Export directory, or an unfinished build; None takes the newest export under `engines/`.
        arch: `--arch`; may be left out for an unfinished build.
        precision: None takes the architecture's own.
        plan: Precision plan to use in place of the rules'.
        requantize: What becomes of a checkpoint's FP8 with block scales where no product takes it.
        calibration: Text to measure scales on; None takes the package's.
        calibration_method: How scales follow from what was measured; None means "mse".
        calibration_percentile: For the method "percentile", in percent; None means 99.99.
        calibration_tokens: Tokens to measure on; None means 8192.
        compensate: Whether quantized weights make up for rounding errors; None means where some are INT4.
        backend: Builder.
        max_batch_size: Rows of a call at most; None means 4.
        max_input_len: Tokens of a call at most; None means 512, or less where the capacity or the scores of
            latent attention ask for it.
        max_seq_len: Tokens of the KV cache; None takes the export's.
        cache: False builds a scoring engine without a KV cache.
        kv_cache: Type of the KV cache, for `--arch cpu`; None takes the plan's, or "fp32".
        output: Build directory; None means `<model>/<arch>-<precision>`.
        plugins: For the backend "tensorrt": "needed" makes plugins of what it has no layers of its own for,
            "all" of every layer that has a plugin; None means "needed".
        plugin_library: Library with the three operators' plugins, for the backend "tensorrt"; None looks for
            one that was built before.
        trust_plugins: The library in the directory of an unfinished build may run, even if this machine did
            not make it.
        embed_plugins: Whether the engine carries the plugin library.
        allow_fake_fp8: Whether products may run in wider types than the FP8 or INT8 that the plan asks for.
        timing_cache: File with the timings of earlier builds, for the backend "tensorrt"; None takes one in
            the user's cache directory.
        external_experts: Whether expert stacks are inputs of the engine, bound from the checkpoint when it
            runs; None means for GPUs where three times the weights exceed this machine's memory.
        dump_passes: Directory for the graph behind each pass, without weights; None writes none.
        parts: Number of engines that the layers are divided over; None makes one, or as few as
            `max_part_bytes` allows.
        max_part_bytes: Most bytes of a part's weights; None sets no limit.
    """

    model: Path | None = None
    arch: str | None = None
    precision: BuildPrecision | None = None
    plan: Path | None = None
    requantize: Requantize = "none"
    calibration: Path | None = None
    calibration_method: CalibrationMethod | None = None
    calibration_percentile: float | None = None
    calibration_tokens: int | None = None
    compensate: bool | None = None
    backend: BackendOption = "auto"
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    cache: bool = True
    kv_cache: CacheType | None = None
    output: Path | None = None
    plugins: PluginUse | None = None
    plugin_library: Path | None = None
    trust_plugins: bool = False
    embed_plugins: bool = False
    allow_fake_fp8: bool = False
    timing_cache: Path | None = None
    external_experts: bool | None = None
    dump_passes: Path | None = None
    parts: int | None = None
    max_part_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_input_len", "max_seq_len", "parts", "max_part_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name.replace('_', '-')} is too small.", found=value, expected=">= 1")
        # A plan that is to be compensated reads the text for that.
        for name in _SCALES if self.compensate is not False else _SCALES + _TEXT:
            if self.plan is not None and getattr(self, name) is not None:
                option = name.replace("_", "-")
                raise UsageError(f"--plan and --{option} exclude each other: a plan brings its scales.")
        if self.calibration_percentile is not None and self.calibration_method != "percentile":
            raise UsageError("--calibration-percentile is for --calibration-method percentile.")
        _ = self.calibration_options  # refuses what is out of range
        if self.plan is not None and self.requantize != "none":
            raise UsageError("--plan and --requantize exclude each other: a plan says what is quantized.")
        if not self.cache and self.max_seq_len is not None:
            raise UsageError("--max-seq-len is the KV cache's capacity, and --no-cache builds none.")
        if not self.cache and self.kv_cache is not None:
            raise UsageError("--kv-cache is the KV cache's type, and --no-cache builds none.")
        if self.is_split and self.dump_passes is not None:
            raise UsageError("--dump-passes is for one graph, and parts are several.")

    @property
    def is_split(self) -> bool:
        """Whether the model is to be cut into parts."""
        return self.parts is not None or self.max_part_bytes is not None

    @property
    def names_text(self) -> bool:
        """Whether a text was named, or how much of it."""
        return any(getattr(self, name) is not None for name in _TEXT)

    @property
    def calibration_options(self) -> CalibrationOptions:
        """The calibration's own options. Raises PlanError for one that is out of range."""
        return CalibrationOptions(
            text=self.calibration,
            method=self.calibration_method or "mse",
            percentile=PERCENTILE if self.calibration_percentile is None else self.calibration_percentile,
            tokens=TOKENS if self.calibration_tokens is None else self.calibration_tokens,
        )


def newest_export(engines: Path = DEFAULT_ENGINES) -> Path:
    """The export under `engines` whose manifest was written last.

    Raises:
        ConfigError: There is none.
    """
    found = []
    for manifest in engines.glob(f"*/{MANIFEST_FILE}"):
        try:
            ExportManifest.read(manifest.parent)
        except ArtifactError:
            continue
        found.append((manifest.stat().st_mtime_ns, manifest.parent))
    if not found:
        raise ConfigError(
            "There is no export to build from.",
            where=engines.resolve(),
            fix="run `r1trt export CHECKPOINT` first, or name an export directory",
        )
    return max(found)[1]
