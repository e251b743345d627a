"""The TensorRT plugins that a server needs beside the engines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.trusted_code import require_trusted_build
from r1trt.build.plugins import plugin_operators
from r1trt.errors import BuildError
from r1trt.plugin_tools.library import find_library, library_from_path, require_code_for


def plugin_library_for(
    builds: Sequence[BuildArtifact], named: Path | None, *, trust_plugins: bool = False
) -> Path | None:
    """The library for the operators that the graph leaves to plugins: those without a body in it.

    Args:
        builds: Builds of one model.
        named: The library to take; None takes the one beside an engine, or one that was built before.
        trust_plugins: A server may run the builds' own code, even if this machine did not make it.

    Returns:
        None where the engines need no plugins, or carry them.

    Raises:
        BuildError: There is no library, or it lacks an operator or a GPU's code.
        UntrustedCodeError: The builds' own code was made elsewhere.
    """
    if named is None:
        for build in builds:
            require_trusted_build(build, trusted=trust_plugins)
    first = builds[0]
    needed = plugin_operators(first.typed_graph) if first.manifest.backend == "tensorrt" else []
    if not needed or first.manifest.embeds_plugins:
        return None
    sms = [entry.sm for build in builds for entry in build.manifest.engines if entry.sm is not None]
    beside = [path for build in builds for path in build.plugin_libraries]
    path = named or next(iter(beside), None)
    library = find_library(*sms) if path is None else library_from_path(path)
    if library is None:
        raise BuildError(
            "The engine needs TensorRT plugins, and no library of them was built.",
            where=first.typed_graph,
            found=", ".join(needed),
            fix="r1trt plugins build --arch all, or pass --plugin-library",
        )
    require_code_for(library, sms, where=library.path)
    if missing := sorted(set(needed) - set(library.operators)):
        raise BuildError(
            "The plugin library lacks operators of the engine.", where=library.path, found=", ".join(missing)
        )
    return library.path
