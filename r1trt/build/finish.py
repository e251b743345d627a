"""A build that stopped in front of its engines, finished wherever its directory is now."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.build import BuildArtifact, BuildManifest
from r1trt.artifacts.disk import link_or_copy_file
from r1trt.artifacts.manifest import MANIFEST_FILE
from r1trt.build.builder_api import backend_available
from r1trt.build.config import BuildConfig
from r1trt.build.engines import build_engines
from r1trt.build.plugins import plugins_of_unfinished
from r1trt.build.prepare import PreparedBuild
from r1trt.build.target import require_timing_cache_fits
from r1trt.build.write import file_entry
from r1trt.cuda_driver import compute_capabilities
from r1trt.errors import BuildError, ConfigError, UnavailableError
from r1trt.estimate.refusal import require_memory
from r1trt.estimate.steps import finishing_step
from r1trt.progress import Progress, ignore

# What an unfinished build has decided already, save for what is compared.
_DECIDED = (
    *(
        "plan",
        "requantize",
        "calibration",
        "calibration_method",
        "calibration_percentile",
        "calibration_tokens",
        "compensate",
        "max_batch_size",
        "max_input_len",
        "max_seq_len",
        "cache",
        "kv_cache",
        "backend",
        "plugins",
        "external_experts",
        "parts",
        "max_part_bytes",
    ),
    "dump_passes",
)
_COMPARED = ("arch", "precision")
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "cpu", "onnxruntime": "cpu"}


def finish_build(source: BuildArtifact, config: BuildConfig, progress: Progress = ignore) -> Path:
    """Build the engines of an unfinished build.

    Args:
        source: The build; it is left as it is where `config` names another output.
        config: Options of the command that finishes it.
        progress: Called with (phase, done, total).

    Returns:
        The finished build's directory.

    Raises:
        ConfigError: The build is finished, or the options contradict it.
        BuildError: Its files changed, or the builder refuses.
        UnavailableError: The engine needs what is not here either.
    """
    require_unfinished(source, config)
    missing = backend_available(source.manifest.backend)
    if missing is not None:
        raise builder_unavailable(source.path, source.manifest.backend, missing)
    _require_unchanged(source)
    manifest = _for_this_machine(source.manifest)
    require_memory(finishing_step(source.weights.stat().st_size, len(manifest.sms)))
    plugins = plugins_of_unfinished(config, replace(source, manifest=manifest))
    output = config.output or source.path
    with atomic_directory(output, kind=BuildManifest.KIND) as directory:
        for path in source.path.iterdir():
            # The manifest is not linked: it would be written through the link into the unfinished build.
            if path.is_file() and path.name != MANIFEST_FILE:
                link_or_copy_file(path, directory / path.name)
        build = BuildArtifact(path=directory, manifest=plugins.put_beside_engine(directory, manifest))
        build_engines_by_config(build, config, progress)
    return output


def build_engines_by_config(build: BuildArtifact, config: BuildConfig, progress: Progress) -> None:
    """The engines that a directory lacks, by the options that concern them. Raises BuildError."""
    build_engines(
        build,
        timing_cache=config.timing_cache,
        allow_fake_fp8=config.allow_fake_fp8,
        progress=progress,
    )


def require_built(prepared: PreparedBuild) -> None:
    """Raises UnavailableError where a build had to stop in front of its engines."""
    if prepared.missing is None:
        return
    holds_library = prepared.plugins.library is not None
    raise builder_unavailable(
        prepared.output, prepared.target.backend, prepared.missing, prepared.compile_for, holds_library
    )


def builder_unavailable(
    build: Path,
    backend: str,
    reason: str,
    plugins_for: str | None = None,
    holds_library: bool = False,
) -> UnavailableError:
    """The error for a builder that is not here.

    Args:
        build: The build that lacks its engine for it.
        backend: The builder.
        reason: Why it cannot build here.
        plugins_for: The `--arch` whose plugin library the build needs and lacks; None where it lacks none.
        holds_library: Whether it holds the library, which another machine is not to run unasked.
    """
    compile_first = "" if plugins_for is None else f"r1trt plugins build --arch {plugins_for}, then "
    trust = " --trust-plugins" if holds_library else ""
    return UnavailableError(
        "Everything but the engine is built.",
        where=build,
        found=reason,
        expected=f"a machine where {backend} can build",
        fix=f"copy the directory there, pip install 'r1trt[{_EXTRAS[backend]}]', and run: {compile_first}"
        f"r1trt build {shlex.quote(str(build))}{trust}",
    )


def require_unfinished(source: BuildArtifact, config: BuildConfig) -> None:
    """Raises ConfigError where a build is finished, or the options contradict what it has decided."""
    if source.manifest.status == "complete":
        raise ConfigError(
            "This directory is a finished build.", where=source.path, fix="name an export to build from"
        )
    defaults = BuildConfig()
    given = [name for name in _DECIDED if getattr(config, name) != getattr(defaults, name)]
    if given:
        names = ["--no-cache" if name == "cache" else f"--{name.replace('_', '-')}" for name in given]
        raise ConfigError(
            "An unfinished build has its options already.",
            where=source.path,
            found=", ".join(names),
            fix="leave the options out, or build from the export",
        )
    require_timing_cache_fits(config, source.manifest.backend)
    for name in _COMPARED:
        asked, decided = getattr(config, name), getattr(source.manifest, name)
        if asked not in (None, decided):
            raise ConfigError(
                "The unfinished build is for something else.",
                where=source.path,
                found=f"--{name} {decided}",
                expected=f"--{name} {asked}",
                fix="leave the option out, or build from the export",
            )


def _for_this_machine(manifest: BuildManifest) -> BuildManifest:
    """TensorRT builds for the GPU that is here."""
    if manifest.backend != "tensorrt":
        return manifest
    here = compute_capabilities()
    fitting = tuple(sm for sm in manifest.sms if sm in here)
    if not fitting:
        raise UnavailableError(
            f"The build is for --arch {manifest.arch}, and this machine has another GPU.",
            found=", ".join(f"SM{sm}" for sm in here),
            expected=" or ".join(f"SM{sm}" for sm in manifest.sms),
            fix="run the command on a machine with such a GPU",
        )
    return replace(manifest, sms=fitting)


def _require_unchanged(source: BuildArtifact) -> None:
    for entry in source.manifest.files:
        path = source.path / entry.file
        if not path.is_file():
            raise BuildError("A file of the unfinished build is gone.", where=path, fix="copy it again")
        if path.stat().st_size != entry.bytes or file_entry(path) != entry:
            raise BuildError(
                "A file of the unfinished build changed.",
                where=path,
                found=f"{path.stat().st_size} bytes",
                expected=f"{entry.bytes} bytes with SHA-256 {entry.sha256}",
                fix="copy the directory again, or build again from the export",
            )
