"""Compiles plugins and kernels for the CPU, by the SIMT host layer, and the harness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from r1trt.plugin_tools.objects import Compilation, ObjectCache
from r1trt.plugin_tools.sources import Headers, compiled_files, source_directory
from r1trt.plugin_tools.targets import HOPPER_FLAGS
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

HERE = Path(__file__).parent
SIMT, HARNESS, NATIVE = HERE / "simt", HERE / "harness", HERE / "native"
LAUNCH_FUNCTIONS = NATIVE / "launch_functions.cpp"
HOST_RUNTIME = SIMT / "host_runtime.cpp"
OWN_HEADERS = Headers(directory=None, version="own")

COMMON_FLAGS = ("-std=c++17", "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra")
PLUGIN_FLAGS = (*COMMON_FLAGS, "-Werror")
# NOTES: where the C++ library is linked statically, its unique symbols would be taken for those of another
# version that the process has, although neither is global; printing a number then crashes.
HIDE_ARCHIVES = "-Wl,--exclude-libs,ALL"
HARNESS_LINK_FLAGS = ("-shared", HIDE_ARCHIVES)
# CUDA sources as C++: its idioms are not the compiler's.
KERNEL_FLAGS = (
    *COMMON_FLAGS, "-Wno-unknown-pragmas", "-Wno-tsan", "-fno-strict-aliasing", "-ffp-contract=off",
    "-DR1TRT_SIMT_HOST", "-x", "c++",
)  # fmt: skip
# Of Hopper's own kernels those that the host layer runs, in a library of their own: in the others the kernels
# that every GPU has take their calls.
HOPPER_ON_HOST = (
    "dynamic_moe/hopper_gemm.cu",
    "hla_attention/hopper_block.cu",
    "hla_attention/hopper_full.cu",
    "hla_attention/hopper_latent.cu",
)
SANITIZER_FLAGS = {
    "plain": (),
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"),
    "tsan": ("-fsanitize=thread",),
}


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """Kernels with a change, some of whose sources take the place of the others.

    Attributes:
        folder: A copy of the kernels' folder with the change.
        sources: The sources that are compiled from it, relative to it.
    """

    folder: Path
    sources: tuple[str, ...]


def host_kernel_library(
    objects: ObjectCache, sanitizer: str = "plain", *, overlay: Overlay | None = None, hopper: bool = False
) -> Path:
    """All kernels as one shared library with the C names of the launch functions.

    Args:
        objects: Where the library goes.
        sanitizer: `plain`, `asan` (with UBSan) or `tsan`.
        overlay: A change of the sources to compile with.
        hopper: Whether calls go to Hopper's own kernels of `HOPPER_ON_HOST`.

    Raises:
        BuildError: A source does not compile.
    """
    kernels = source_directory() / "kernels"
    own = HOPPER_ON_HOST if hopper else ()
    names = [str(path.relative_to(kernels)) for path in sorted(kernels.glob("*/*.cu"))]
    sources = []
    if overlay is not None:
        # NOTES: the linker takes inline functions from the first object that has them.
        sources = [_kernel_compilation(name, overlay.folder, sanitizer, own) for name in overlay.sources]
        names = [name for name in names if name not in overlay.sources]
    sources += [_kernel_compilation(name, kernels, sanitizer, own) for name in names]
    sources += [host_compilation(path, kernels, sanitizer) for path in (*host_layer(), LAUNCH_FUNCTIONS)]
    return linked(objects, "kernels-host", sources, ("-shared", *SANITIZER_FLAGS[sanitizer]))


def host_plugin_library(
    objects: ObjectCache,
    sanitizer: str = "plain",
    *,
    headers: Headers = OWN_HEADERS,
    overlay: Overlay | None = None,
) -> Path:
    """The plugins and their kernels.

    Args:
        objects: Where the library goes.
        sanitizer: `plain` or `asan`.
        headers: TensorRT's.
        overlay: A change of the kernels' sources to compile with.

    Raises:
        BuildError: A source does not compile.
    """
    plugins = source_directory()
    kernels = plugins / "kernels"
    flags = (*PLUGIN_FLAGS, *SANITIZER_FLAGS[sanitizer], *headers.flags)
    changed = {} if overlay is None else {kernels / name: overlay.folder / name for name in overlay.sources}
    sources = [
        host_compilation(path, overlay.folder, sanitizer) for path in changed.values() if overlay is not None
    ]
    sources += [
        cxx_compilation(path, flags) if path.suffix == ".cpp" else host_compilation(path, kernels, sanitizer)
        for path in compiled_files(plugins)
        if path not in changed
    ]
    sources += [host_compilation(path, kernels, sanitizer) for path in host_layer()]
    sources += [cxx_compilation(HOST_RUNTIME, flags)]
    script = plugins / "exports.map"
    link = ("-shared", *SANITIZER_FLAGS[sanitizer], f"-Wl,--version-script={script}", "-Wl,-z,nodelete")
    return linked(objects, "plugins-host", sources, link, inputs=(script,))


def harness_library(objects: ObjectCache, *, headers: Headers = OWN_HEADERS) -> Path:
    """What stands in for TensorRT.

    Raises:
        BuildError: A source does not compile.
    """
    flags = (*PLUGIN_FLAGS, *headers.flags)
    sources = [cxx_compilation(path, flags) for path in sorted(HARNESS.glob("*.cpp"))]
    return linked(objects, "harness", sources, HARNESS_LINK_FLAGS)


def host_layer() -> list[Path]:
    """The sources of the SIMT host layer."""
    return sorted(SIMT.glob("simt*.cpp"))


def host_compilation(source: Path, kernels: Path, sanitizer: str, flags: Sequence[str] = ()) -> Compilation:
    """How a kernel's source, or one of the host layer, is compiled for the CPU.

    Args:
        source: The file.
        kernels: The folder of the kernels.
        sanitizer: A key of `SANITIZER_FLAGS`.
        flags: More flags.
    """
    return _compilation(source, (*KERNEL_FLAGS, *flags, *SANITIZER_FLAGS[sanitizer]), (SIMT, kernels))


def _kernel_compilation(name: str, folder: Path, sanitizer: str, own: Sequence[str]) -> Compilation:
    return host_compilation(folder / name, folder, sanitizer, HOPPER_FLAGS if name in own else ())


def cxx_compilation(source: Path, flags: Sequence[str]) -> Compilation:
    """How a source of the plugins or of the harness is compiled."""
    return _compilation(source, tuple(flags), (source_directory(),))


def _compilation(source: Path, flags: tuple[str, ...], folders: tuple[Path, ...]) -> Compilation:
    chain = _toolchain()
    return Compilation(
        source=source, compiler=chain.cxx, version=chain.cxx_version, flags=flags, folders=folders,
        system=(chain.include,),
    )  # fmt: skip


def linked(
    objects: ObjectCache,
    name: str,
    sources: Sequence[Compilation],
    flags: Sequence[str],
    *,
    inputs: Sequence[Path] = (),
) -> Path:
    """Compiles sources and links them.

    Args:
        objects: Where objects and result go.
        name: Of the result.
        sources: What to compile.
        flags: The linker's.
        inputs: Files that `flags` name.

    Raises:
        BuildError: A source does not compile, or they do not link.
    """
    compiled = [item.path for item in objects.objects(sources)]
    command = [str(_toolchain().cxx), *flags]
    return objects.linked(name, compiled, command, libraries=("-ldl", "-lpthread"), inputs=inputs)


@cache
def _toolchain() -> Toolchain:
    return toolchain_from_machine()
