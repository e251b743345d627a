"""The plugin library of a build: chosen, put beside the engine, and named in the manifest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.build import BuildArtifact, BuildDirectory, BuildManifest, PluginsEntry
from r1trt.artifacts.disk import copy_file
from r1trt.artifacts.trusted_code import record_trusted_code, require_trusted_code
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.config import BuildConfig
from r1trt.errors import BuildError, ConfigError, UnavailableError, UsageError
from r1trt.graph.load import model_from_onnx_file
from r1trt.ops.registry import OPERATORS, operator_of
from r1trt.plugin_tools.library import (
    PluginLibrary,
    find_library,
    library_from_path,
    require_code_for,
)
from r1trt.text import listing


@dataclass(frozen=True, kw_only=True)
class BuildPlugins:
    """Plugins of one build.

    Attributes:
        library: The library; None for a builder without plugins, or where none was built yet.
        embed: Whether the engine carries the library, so that nobody has to load it.
    """

    library: PluginLibrary | None = None
    embed: bool = False

    def put_beside_engine(self, directory: Path, manifest: BuildManifest) -> BuildManifest:
        """Copies the library into a build directory.

        Returns:
            The manifest with the library in it, and whether it has to be loaded in front of the engine.
        """
        if self.library is None:
            return replace(manifest, plugins=None, plugin_libraries=())
        record_trusted_code(self.library.sha256)
        target = BuildDirectory(path=directory).plugin_library
        if self.library.path.resolve() != target.resolve():
            # The file may be a link to that of the build that is being finished.
            target.unlink(missing_ok=True)
            copy_file(self.library.path, target)
        entry = PluginsEntry(
            file=self.library.path.name,
            sha256=self.library.sha256,
            operators=self.library.operators,
            sms=self.library.sms,
            headers=self.library.headers,
            nvcc=self.library.nvcc,
            embedded=self.embed,
        )
        return replace(manifest, plugins=entry, plugin_libraries=() if self.embed else (target.name,))


def plugins_for_build(
    config: BuildConfig, backend: str, sms: Sequence[int], *, needed: bool, required: bool
) -> BuildPlugins:
    """Chooses the library: the one that the configuration names, else one that was built before.

    A network without plugins carries none.

    Args:
        config: The build's options.
        backend: Its builder.
        sms: Compute capabilities that the library must have code for.
        needed: Whether the network has plugins.
        required: Whether the engine is built here and now.

    Raises:
        ConfigError: Plugins are asked for, and the builder takes none, or the network has none.
        BuildError: The named file is not a plugin library, or lacks code for one of the GPUs.
        UnavailableError: There is no library, and it is required.
    """
    if backend not in BUILDER_APIS or not BUILDER_APIS[backend].has_plugins:
        if config.plugin_library is not None or config.embed_plugins:
            raise UsageError(
                "--plugin-library and --embed-plugins are for the builder tensorrt.",
                found=f"--backend {backend}",
                fix="leave them out, or build with --backend tensorrt",
            )
        return BuildPlugins()
    if not needed:
        if config.plugin_library is not None or config.embed_plugins:
            raise ConfigError(
                "No layer of this model becomes a plugin: TensorRT has layers of its own for them.",
                found="--plugin-library or --embed-plugins",
                fix="leave them out, or build with --plugins all",
            )
        return BuildPlugins()
    library = _library(config.plugin_library, sms)
    if library is None and required:
        raise UnavailableError(
            "The engine needs the plugin library, and none was built for this GPU.",
            expected=", ".join(f"SM{sm}" for sm in sms),
            fix="run `r1trt plugins build --arch all`, then this command again",
        )
    return BuildPlugins(library=library, embed=config.embed_plugins)


def _library(named: Path | None, sms: Sequence[int]) -> PluginLibrary | None:
    if named is None:
        return find_library(*sms)
    library = library_from_path(named)
    require_code_for(library, sms, where=named)
    return library


def plugins_of_unfinished(config: BuildConfig, build: BuildArtifact) -> BuildPlugins:
    """The plugins that a build is finished with: those asked for now, else those that lie in its directory.

    Args:
        config: Options of the command that finishes it.
        build: The unfinished build, its `sms` being those of this machine.

    Raises:
        R1TrtError: As `plugins_for_build`, or the directory's library is not the manifest's, or nobody said
            that it may run here.
    """
    manifest, recorded, beside = build.manifest, build.manifest.plugins, build.plugin_library
    takes_plugins = BUILDER_APIS[manifest.backend].has_plugins
    if config.plugin_library is not None or recorded is None or not takes_plugins:
        needed = recorded is not None or bool(plugin_operators(build.typed_graph))
        return plugins_for_build(config, manifest.backend, manifest.sms, needed=needed, required=True)
    library = library_from_path(beside)
    if library.sha256 != recorded.sha256:
        raise BuildError(
            "The plugin library of the unfinished build changed.",
            where=beside,
            found=f"SHA-256 {library.sha256}",
            expected=recorded.sha256,
            fix="copy the directory again, or name a library with --plugin-library",
        )
    require_code_for(library, manifest.sms, where=beside)
    require_trusted_code(beside, trusted=config.trust_plugins)
    return BuildPlugins(library=library, embed=config.embed_plugins or recorded.embedded)


def plugin_operators(graph: Path) -> list[str]:
    """Operators that a typed graph leaves to plugins: those without a body in it."""
    model = model_from_onnx_file(graph)
    bodies = {function.name for function in model.functions.values()}
    return sorted({node.op_type for node in model.graph.all_nodes()} & set(OPERATORS) - bodies)


def require_plugin_sizes(model: ir.Model, in_plugins: Collection[str]) -> None:
    """Refuse an exported graph with sizes that the plugins have no kernels for, before anything long runs.

    Args:
        model: The exported graph.
        in_plugins: Names of the nodes that become plugins.

    Raises:
        BuildError: Lists what is found, and in which nodes.
    """
    found: dict[str, list[str]] = {}
    for node in model.graph:
        operator = operator_of(node) if node.name in in_plugins else None
        for problem in () if operator is None else operator.plugin_problems(node):
            found.setdefault(f"{node.op_type}: {problem}", []).append(str(node.name))
    if found:
        lines = [
            f"{problem} ({names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''})"
            for problem, names in found.items()
        ]
        raise BuildError(
            "TensorRT's plugins have no kernels for sizes of this model.",
            found=listing(lines, limit=None),
            fix="leave --plugins all out where it was given, or build for an architecture whose builder "
            "takes no plugins: `r1trt doctor` lists them",
        )
