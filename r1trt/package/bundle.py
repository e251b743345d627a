"""Builds of one model as one thing to serve: which files a server needs, and with which library they load."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.store import read_manifest
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.errors import BuildError, ConfigError
from r1trt.inspect import model_from_onnx_file
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_tools.library import find_library, library_from_path, require_code_for

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "config.json",
)
TYPED_FILE = "typed.onnx"

# What has to be equal for engines to be one model's on different GPUs.
_SHARED = ("backend", "cache", "capacity", "max_batch_size", "max_input_len", "last_token_logits")


@dataclass(frozen=True, kw_only=True)
class EngineBundle:
    """What a repository takes of one build or several.

    Attributes:
        manifest: The first build's, with the engines of all.
        graph: The ONNX file that says what the engines' inputs and outputs are.
        engine_files: Files that the engines consist of, by the name that they keep.
        tokenizer_files: The tokenizer's files, by name.
        plugin_library: What TensorRT has to load first; None where the engines need no plugins or carry them.
        library: Package that the engines load with, as in `tensorrt-cu13`.
        library_version: Its version; None where the build does not say.
    """

    manifest: Mapping[str, Any]
    graph: Path
    engine_files: Mapping[str, Path]
    tokenizer_files: Mapping[str, Path]
    plugin_library: Path | None
    library: str
    library_version: str | None

    @property
    def is_tensorrt(self) -> bool:
        """The engines are full TensorRT's."""
        return bool(self.manifest["backend"] == "tensorrt")

    @property
    def carries_plugins(self) -> bool:
        """The engines have code for the CPU in them, which TensorRT runs only where it is allowed to."""
        return _embeds(self.manifest)

    @property
    def bytes(self) -> int:
        """Size of all files."""
        plugins = {} if self.plugin_library is None else {"": self.plugin_library}
        paths = [*self.engine_files.values(), *self.tokenizer_files.values(), *plugins.values()]
        return sum(path.stat().st_size for path in paths)


def bundle_from_builds(builds: Sequence[Path], plugin_library: Path | None = None) -> EngineBundle:
    """Reads build directories and checks that they are finished and belong together.

    Args:
        builds: Build directories of one model, each for other GPUs.
        plugin_library: TensorRT plugins; None takes those of the builds, or some that were built before.

    Raises:
        ArtifactError: A directory is not a build.
        BuildError: A build is unfinished, of another model, or its files or plugins are missing.
    """
    manifests = {build: read_manifest(build, "engine") for build in builds}
    first = manifests[builds[0]]
    for build, manifest in manifests.items():
        _require_finished(build, manifest)
        _require_same(build, manifest, builds[0], first)
    engines = [entry for manifest in manifests.values() for entry in manifest["engines"]]
    _require_distinct(builds, engines)
    graph = builds[0] / (TYPED_FILE if first["backend"] in BUILDER_APIS else engines[0]["file"])
    library = BUILDER_APIS[first["backend"]].package if first["backend"] in BUILDER_APIS else "onnxruntime"
    return EngineBundle(
        manifest={**first, "engines": engines, "sms": [e["sm"] for e in engines if e["sm"] is not None]},
        graph=graph,
        engine_files=_engine_files(manifests),
        tokenizer_files={name: builds[0] / name for name in TOKENIZER_FILES if (builds[0] / name).is_file()},
        plugin_library=_plugin_library(graph, manifests, plugin_library),
        library=library,
        library_version=first["versions"].get(library),
    )


def require_library_version(bundle: EngineBundle, version: str) -> None:
    """Refuses a server whose TensorRT is not the one that the engines were built with.

    Args:
        bundle: The engines.
        version: What the server carries, as its release notes write it: "11.4", "11.4.0", "11.4.0.106".

    Raises:
        ConfigError: It is no version, or the engines are not TensorRT's.
        BuildError: It is another version, or the build does not say which it needs.
    """
    if not re.fullmatch(r"\d+(\.\d+){1,3}", version):
        raise ConfigError("This is no TensorRT version.", found=version, expected="for instance 11.4.0.106")
    if not bundle.is_tensorrt:
        raise ConfigError(
            "--trt-version is for TensorRT engines.", found=f"backend {bundle.manifest['backend']}"
        )
    needed = bundle.library_version
    if needed is None or needed.split(".")[: version.count(".") + 1] != version.split("."):
        raise BuildError(
            "A TensorRT engine loads only in the version that built it.",
            found=f"the server's TensorRT {version}",
            expected=f"TensorRT {needed or '(the build does not say which)'}",
            fix=f"choose a server with that version, or build with {bundle.library} {version}",
        )


def _embeds(manifest: Mapping[str, Any]) -> bool:
    return bool((manifest.get("plugins") or {}).get("embedded"))


def _require_finished(build: Path, manifest: Mapping[str, Any]) -> None:
    if not manifest["engines"]:
        raise BuildError(
            "This build is not finished: it has no engine.", where=build, fix=f"r1trt build {build}"
        )


def _require_same(
    build: Path, manifest: Mapping[str, Any], first_build: Path, first: Mapping[str, Any]
) -> None:
    names = [name for name in _SHARED if manifest.get(name) != first.get(name)]
    # Not the graph's: each architecture's precision gives it another.
    hashes = [each["source"].get("model_hash") for each in (manifest, first)]
    if names or hashes[0] != hashes[1]:
        name = names[0] if names else "model_hash"
        values = [each.get(name) if names else each["source"].get(name) for each in (manifest, first)]
        raise BuildError(
            "The builds do not belong together.",
            where=build,
            found=f"{name} {values[0]}",
            expected=f"{values[1]}, as in {first_build}",
            fix="build the same export with the same options for every architecture",
        )
    if _embeds(manifest) != _embeds(first):
        raise BuildError(
            "Only some of the engines carry their plugins.",
            where=build,
            fix="build all with --embed-plugins, or none",
        )
    versions = [
        {key: each["versions"].get(key) for key in ("tensorrt-cu13", "tensorrt-rtx-cu13")}
        for each in (manifest, first)
    ]
    if versions[0] != versions[1]:
        raise BuildError(
            "The builds need different TensorRT versions, and a server has one.",
            where=build,
            found=versions[0],
            expected=versions[1],
        )


def _require_distinct(builds: Sequence[Path], engines: Sequence[Mapping[str, Any]]) -> None:
    sms = [entry["sm"] for entry in engines]
    doubled = sorted({str(sm) for sm in sms if sms.count(sm) > 1})
    if doubled:
        raise BuildError(
            "More than one of the builds is for the same processor.",
            where=", ".join(map(str, builds)),
            found=", ".join("a CPU" if sm == "None" else f"SM{sm}" for sm in doubled),
        )


def _engine_files(manifests: Mapping[Path, Mapping[str, Any]]) -> dict[str, Path]:
    """The engines, and for an ONNX model the weights that it points to."""
    files = {
        entry["file"]: build / entry["file"]
        for build, manifest in manifests.items()
        for entry in manifest["engines"]
    }
    _require_present(files.values())
    for build, manifest in manifests.items():
        if manifest["backend"] == "onnxruntime":
            model = model_from_onnx_file(build / manifest["engines"][0]["file"])
            tensors = (value.const_value for value in model.graph.initializers.values())
            names = {str(tensor.location) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}
            files.update({name: build / name for name in sorted(names)})
    _require_present(files.values())
    return files


def _require_present(files: Any) -> None:
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BuildError("Files of the engine are missing.", found=", ".join(missing), fix="build it again")


def _plugin_library(
    graph: Path, manifests: Mapping[Path, Mapping[str, Any]], named: Path | None
) -> Path | None:
    """The library for the operators that the graph leaves to plugins: those without a body in it."""
    first = next(iter(manifests.values()))
    needed = [] if first["backend"] != "tensorrt" else _plugin_operators(graph)
    if not needed or _embeds(first):
        return None
    sms = [int(entry["sm"]) for manifest in manifests.values() for entry in manifest["engines"]]
    beside = [
        build / name for build, manifest in manifests.items() for name in manifest.get("plugin_libraries", [])
    ]
    path = named or next(iter(beside), None)
    library = find_library(*sms) if path is None else library_from_path(path)
    if library is None:
        raise BuildError(
            "The engine needs TensorRT plugins, and no library of them was built.",
            where=graph,
            found=", ".join(needed),
            fix="r1trt plugins build --arch all, or pass --plugin-library",
        )
    require_code_for(library, sms, where=library.path)
    if missing := sorted(set(needed) - set(library.operators)):
        raise BuildError(
            "The plugin library lacks operators of the engine.", where=library.path, found=", ".join(missing)
        )
    return library.path


def _plugin_operators(graph: Path) -> list[str]:
    model = model_from_onnx_file(graph)
    bodies = {function.name for function in model.functions.values()}
    return sorted({node.op_type for node in model.graph.all_nodes()} & set(OPERATORS) - bodies)
