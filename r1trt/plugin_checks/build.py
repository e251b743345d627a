"""Stage `build`: the plugin library, the harness, and the kernels behind C names."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from r1trt.errors import BuildError
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.host_build import (
    HIDE_ARCHIVES,
    LAUNCH_FUNCTIONS,
    NATIVE,
    PLUGIN_FLAGS,
    harness_library,
    host_kernel_library,
    host_plugin_library,
)
from r1trt.plugin_tools import PluginBuildConfig, build_plugins, find_library, toolchain_from_machine
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.library import (
    PluginLibrary,
    library_from_path,
    objects_directory,
    require_code_for,
)
from r1trt.plugin_tools.objects import Compilation, ObjectCache
from r1trt.plugin_tools.sources import source_directory
from r1trt.plugin_tools.targets import arch_of, cuda_compilation, require_overlapping_products, target_sm
from r1trt.plugin_tools.toolchain import Toolchain

CUDA_MEMORY = NATIVE / "cuda_memory.cu"
MOE_STAGES = NATIVE / "moe_stages.cu"  # reaches into the kernels' inner headers; the library can do without
LINK_FLAGS = ("-shared", "-Wl,--no-undefined", HIDE_ARCHIVES)
LINK_LIBRARIES = ("-lpthread", "-ldl", "-lrt")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the other stages load.

    Attributes:
        plugins: The plugin library.
        harness: What stands in for TensorRT.
        kernels: The launch functions.
    """

    plugins: Path
    harness: Path
    kernels: Path


def plugin_library(named: Path | None, sm: int, log: Callable[[str], None]) -> PluginLibrary:
    """The library to check; nothing is run, so there need not be a GPU.

    Args:
        named: The file; None takes what `r1trt build` would take, or builds one.
        sm: Compute capability that it must have code for.
        log: Told of each step.

    Raises:
        BuildError: The file is not a plugin library, has no code for the GPU, or a source does not compile.
        UnavailableError: There is no compiler.
    """
    if named is not None:
        library = library_from_path(named)
        require_code_for(library, [sm], where=named)
        return library
    if (found := find_library(sm)) is not None:
        return found
    config = PluginBuildConfig(arch=arch_of(sm), jobs=os.cpu_count() or 2)
    return build_plugins(config, log)


def run(context: Context, library: PluginLibrary | None) -> Result:
    """Builds what is not there yet.

    Args:
        context: The run.
        library: The plugin library that is checked; None for that of the CPU, which is built here.
    """
    begin = time.monotonic()
    with Compilers(os.cpu_count() or 2) as compilers:
        objects = ObjectCache(objects_directory(), compilers)
        if library is None:
            built, notes = build_for_host(objects), Result()
        else:
            built, notes = build_for_gpu(context, objects, library)
    return {
        "finished": True,
        "seconds": round(time.monotonic() - begin, 1),
        "files": {name: str(path) for name, path in vars(built).items()},
        "failures": [],
        **notes,
    }


def built_from(result: Result, library: PluginLibrary | None) -> Built | None:
    """What a stage built.

    Args:
        result: The stage's.
        library: The plugin library that is checked; None for that of the CPU.

    Returns:
        The files; None where one is gone, or the plugin library is another file.
    """
    files = result["files"]
    built = Built(**{name: Path(files[name]) for name in ("plugins", "harness", "kernels")})
    if library is not None and built.plugins != library.path.absolute():
        return None
    return built if all(path.is_file() for path in vars(built).values()) else None


def build_for_host(objects: ObjectCache) -> Built:
    """Libraries for the CPU, by the SIMT host layer."""
    return Built(
        plugins=host_plugin_library(objects),
        harness=harness_library(objects),
        kernels=host_kernel_library(objects),
    )


def build_for_gpu(context: Context, objects: ObjectCache, plugins: PluginLibrary) -> tuple[Built, Result]:
    """What is loaded beside a plugin library, for one compute capability."""
    context.log(f"plugins: {plugins.path}")
    kernels, left_out = kernel_library(context, objects)
    built = Built(plugins=plugins.path.absolute(), harness=harness_library(objects), kernels=kernels)
    return built, {"plugins": plugins.as_manifest(), "nvcc": plugins.nvcc, "stages_left_out": left_out}


def kernel_library(context: Context, objects: ObjectCache) -> tuple[Path, str | None]:
    """Compiles the kernels' sources and links them with their C names.

    Returns:
        The library, and why it is without the stages of the mixture of experts; None if it has them.

    Raises:
        BuildError: They do not compile, or do not link.
    """
    chain, sources = toolchain_from_machine(), source_directory()
    kernels = sources / "kernels"
    native = partial(native_compilation, chain, sm=context.sm)
    required = [
        *(native(path) for path in (*sorted(kernels.glob("*/*.cu")), CUDA_MEMORY)),
        Compilation(
            source=LAUNCH_FUNCTIONS, compiler=chain.cxx, version=chain.cxx_version, flags=PLUGIN_FLAGS,
            folders=(kernels,), system=(chain.include,),
        ),
    ]  # fmt: skip

    def log(source: Path) -> None:
        context.log(f"compiling {source.name} for SM{context.sm}")

    compiled = [require_overlapping_products(item) for item in objects.objects(required, log)]
    left_out = None
    try:
        compiled += objects.objects([native(MOE_STAGES)], log)
    except BuildError as error:
        left_out = str(error)
    libraries = (str(chain.runtime), *LINK_LIBRARIES)
    files = [item.path for item in compiled]
    command = (str(chain.cxx), *LINK_FLAGS)
    return objects.linked("kernels", files, command, libraries=libraries), left_out


def native_compilation(chain: Toolchain, source: Path, *, sm: int) -> Compilation:
    """How nvcc compiles a kernel, or what the checks add to them, for one GPU."""
    sources = source_directory()
    folders = [sources / "kernels"]
    return cuda_compilation(chain, source, sources, [target_sm(sm)], folders=folders)
