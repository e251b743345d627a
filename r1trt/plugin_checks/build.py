"""Stage `build`: the plugin library, the harness, and the kernels behind C names."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from r1trt.errors import BuildError
from r1trt.plugin_checks.context import Context, Result
from r1trt.plugin_checks.host_build import (
    LAUNCH_FUNCTIONS,
    NATIVE,
    PLUGIN_FLAGS,
    harness_library,
    host_kernel_library,
    host_plugin_library,
)
from r1trt.plugin_tools import PluginBuildConfig, build_plugins, find_library, toolchain_from_machine
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.library import objects_directory
from r1trt.plugin_tools.objects import Compilation, ObjectCache
from r1trt.plugin_tools.sources import source_directory
from r1trt.plugin_tools.targets import arch_of, cuda_compilation, require_overlapping_products, target_sm
from r1trt.plugin_tools.toolchain import Toolchain

CUDA_MEMORY = NATIVE / "cuda_memory.cu"
MOE_STAGES = NATIVE / "moe_stages.cu"  # reaches into the kernels' inner headers; the library can do without
LINK_FLAGS = ("-shared", "-Wl,--no-undefined")
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


def run(context: Context) -> Result:
    """Builds what is not there yet."""
    begin = time.monotonic()
    with Compilers(os.cpu_count() or 2) as compilers:
        objects = ObjectCache(objects_directory(), compilers)
        built, notes = build_for_gpu(context, objects) if context.on_gpu else (build_for_host(objects), {})
    return {
        "finished": True,
        "seconds": round(time.monotonic() - begin, 1),
        "files": {name: str(path) for name, path in vars(built).items()},
        "failures": [],
        **notes,
    }


def built_from(result: Result) -> Built | None:
    """What a stage built; None where a file is gone."""
    built = Built(**{name: Path(path) for name, path in result["files"].items()})
    return built if all(path.is_file() for path in vars(built).values()) else None


def build_for_host(objects: ObjectCache) -> Built:
    """Libraries for the CPU, by the SIMT host layer."""
    return Built(
        plugins=host_plugin_library(objects),
        harness=harness_library(objects),
        kernels=host_kernel_library(objects),
    )


def build_for_gpu(context: Context, objects: ObjectCache) -> tuple[Built, Result]:
    """Libraries for one compute capability; nothing is run, so there need not be a GPU.

    The plugin library is the one that `r1trt build` would take, if there is one with code for this GPU.
    """
    plugins = find_library(context.sm)
    if plugins is None:
        config = PluginBuildConfig(arch=arch_of(context.sm), jobs=os.cpu_count() or 2)
        plugins = build_plugins(config, context.log)
    context.log(f"plugins: {plugins.path}")
    kernels, left_out = kernel_library(context, objects)
    built = Built(plugins=plugins.path, harness=harness_library(objects), kernels=kernels)
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
    required = [
        *(native_compilation(chain, path, context.sm) for path in sorted(kernels.glob("*/*.cu"))),
        native_compilation(chain, CUDA_MEMORY, context.sm),
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
        compiled += objects.objects([native_compilation(chain, MOE_STAGES, context.sm)], log)
    except BuildError as error:
        left_out = str(error)
    libraries = (str(chain.runtime), *LINK_LIBRARIES)
    files = [item.path for item in compiled]
    command = (str(chain.cxx), *LINK_FLAGS)
    return objects.linked("kernels", files, command, libraries=libraries), left_out


def native_compilation(chain: Toolchain, source: Path, sm: int) -> Compilation:
    """How nvcc compiles a kernel, or what the checks add to them, for one GPU."""
    sources = source_directory()
    return cuda_compilation(chain, source, sources, [target_sm(sm)], folders=[sources / "kernels"])
