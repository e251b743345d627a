"""Builds of one model as one thing to serve: which files a server needs, and with which library they load."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from r1trt.arch import LIBRARIES
from r1trt.artifacts.build import BuildArtifact, BuildManifest
from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import BuildError, ConfigError, UsageError
from r1trt.graph.load import model_from_onnx_file
from r1trt.package.bundle_checks import require_one_model, require_tokenizer
from r1trt.package.plugins import plugin_library_for


@dataclass(frozen=True, kw_only=True)
class EngineBundle:
    """What a repository takes of one build or several.

    Attributes:
        manifest: The first build's, with the engines of all.
        graph: The ONNX file that says what the engines' inputs and outputs are.
        engine_files: Files that the engines consist of; each keeps its name.
        source: Where the tokenizer's and the configuration's files are.
        plugin_library: What TensorRT has to load first; None where the engines need no plugins or carry them.
        library: Package that the engines load with, as in `tensorrt-cu13`.
        library_version: Its version; None where the build does not say.
    """

    manifest: BuildManifest
    graph: Path
    engine_files: tuple[Path, ...]
    source: ModelDirectory
    plugin_library: Path | None
    library: str
    library_version: str | None

    @property
    def is_tensorrt(self) -> bool:
        """The engines are full TensorRT's."""
        return self.manifest.backend == "tensorrt"

    @property
    def bytes(self) -> int:
        """Size of all files."""
        plugins = () if self.plugin_library is None else (self.plugin_library,)
        return sum(path.stat().st_size for path in (*self.engine_files, *self.source.companions, *plugins))


def bundle_from_builds(
    directories: Sequence[Path], plugin_library: Path | None = None, *, trust_plugins: bool = False
) -> EngineBundle:
    """Reads build directories and checks that they are finished and belong together.

    Args:
        directories: Build directories of one model, each for other GPUs.
        plugin_library: TensorRT plugins; None takes those of the builds, or some that were built before.
        trust_plugins: A server may run the builds' own code, even if this machine did not make it.

    Raises:
        ArtifactError: A directory is not a build.
        BuildError: A build is unfinished, of another model, or its files or plugins are missing.
    """
    builds = [BuildArtifact.read(directory) for directory in directories]
    first = builds[0]
    for build in builds:
        build.require_finished()
        build.require_one_engine("a Triton repository")
        require_tokenizer(build)
    require_one_model(builds)
    engines = tuple(entry for build in builds for entry in build.manifest.engines)
    backend = first.manifest.backend
    library = LIBRARIES[backend].package
    engine_files = _engine_files(builds)
    return EngineBundle(
        manifest=replace(
            first.manifest,
            engines=engines,
            sms=tuple(entry.sm for entry in engines if entry.sm is not None),
        ),
        graph=first.cpu_engine if backend == "onnxruntime" else first.typed_graph,
        engine_files=engine_files,
        source=first,
        plugin_library=plugin_library_for(builds, plugin_library, trust_plugins=trust_plugins),
        library=library,
        library_version=first.manifest.versions.get(library),
    )


def require_library_version(bundle: EngineBundle, version: str) -> None:
    """Refuses a server whose TensorRT is not the one that the engines were built with.

    Args:
        bundle: The engines.
        version: What the server carries, as its release notes write it: "11.4", "11.4.0", "11.4.0.106".

    Raises:
        ConfigError: It is not a version, or the engines are not TensorRT's.
        BuildError: It is another version, or the build does not say which it needs.
    """
    if not re.fullmatch(r"\d+(\.\d+){1,3}", version):
        raise UsageError("This is not a TensorRT version.", found=version, expected="such as 11.4.0.106")
    if not bundle.is_tensorrt:
        raise ConfigError(
            "--trt-version is for TensorRT engines.", found=f"backend {bundle.manifest.backend}"
        )
    needed = bundle.library_version
    if needed is None or needed.split(".")[: version.count(".") + 1] != version.split("."):
        raise BuildError(
            "A TensorRT engine loads only in the version that built it.",
            found=f"the server's TensorRT {version}",
            expected=f"TensorRT {needed or '(the build does not say which)'}",
            fix=f"choose a server with that version, or build with {bundle.library} {version}",
        )


def _engine_files(builds: Sequence[BuildArtifact]) -> tuple[Path, ...]:
    """The engines, and for an ONNX model the weights that it points to."""
    engines = [path for build in builds for path in build.engines.values()]
    _require_present(engines)
    weights = [
        path
        for build in builds
        if build.manifest.backend == "onnxruntime"
        for path in _external_files(build.cpu_engine)
    ]
    _require_present(weights)
    return (*engines, *weights)


def _external_files(graph: Path) -> list[Path]:
    """The files beside a graph that its weights are in."""
    tensors = [value.const_value for value in model_from_onnx_file(graph).graph.initializers.values()]
    names = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
    if outside := sorted(name for name in names if Path(name).name != name):
        raise BuildError(
            "The engine's weights lie outside its directory.",
            where=graph,
            found=", ".join(outside),
            fix="build it again",
        )
    return [graph.parent / name for name in sorted(names)]


def _require_present(files: Iterable[Path]) -> None:
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BuildError("Files of the engine are missing.", found=", ".join(missing), fix="build it again")
