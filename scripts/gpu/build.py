"""Stage `build`: the plugin library, the harness, and the kernels behind C names."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from gpu import REPOSITORY, WORK
from gpu.context import Context, Result
from r1trt.arch import ARCHITECTURES
from r1trt.errors import BuildError
from r1trt.plugin_tools.build import SERIALIZED_WGMMA, TARGETS, PluginBuildConfig, build_plugins
from r1trt.plugin_tools.library import LIBRARY_FILE
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

KERNELS = REPOSITORY / "plugins" / "kernels"
HERE = Path(__file__).parent
OPTIONAL = HERE / "stages.cu"
LINK_LIBRARIES = ("-lpthread", "-ldl", "-lrt")


@dataclass(frozen=True, kw_only=True)
class Built:
    """What the other stages load.

    Attributes:
        plugins: The plugin library.
        harness: What plays TensorRT for it.
        kernels: The launch functions.
    """

    plugins: Path
    harness: Path
    kernels: Path


def run(context: Context, previous: Result | None) -> Result:
    """Builds what is not there yet."""
    begin = time.monotonic()
    built, notes = build_for_gpu(context) if context.on_gpu else (build_for_host(), {})
    failures: list[dict[str, str]] = []
    return {
        "finished": True,
        "seconds": round(time.monotonic() - begin, 1),
        "files": {name: str(path) for name, path in vars(built).items()},
        "failures": failures,
        **notes,
    }


def built_from(result: Result) -> Built | None:
    """What a stage built; None where a file is gone."""
    built = Built(**{name: Path(path) for name, path in result["files"].items()})
    return built if all(path.is_file() for path in vars(built).values()) else None


def build_for_host() -> Built:
    """The tests' libraries for the CPU."""
    from harness.compile import harness_library, host_plugin_library
    from kernels.build import build_library

    return Built(plugins=host_plugin_library(), harness=harness_library(), kernels=build_library())


def build_for_gpu(context: Context) -> tuple[Built, Result]:
    """Libraries for one compute capability; nothing is run, so there need not be a GPU."""
    from harness.compile import harness_library

    jobs = os.cpu_count() or 2
    config = PluginBuildConfig(arch=arch_of(context.sm), output=WORK / "plugins", jobs=jobs)
    plugins = build_plugins(config, context.log)
    kernels, without = build_kernels(context, jobs)
    built = Built(plugins=WORK / "plugins" / LIBRARY_FILE, harness=harness_library(), kernels=kernels)
    return built, {"plugins": plugins.as_manifest(), "nvcc": plugins.nvcc, "stages_left_out": without}


def arch_of(sm: int) -> str:
    """The `--arch` of a compute capability.

    Raises:
        BuildError: There is none.
    """
    # Code for SM100 and SM120 runs on SM103 and SM121, code for SM86 on SM87.
    built = [target for target in TARGETS if target <= sm and target // 10 == sm // 10]
    for name, architecture in ARCHITECTURES.items():
        if built and max(built) in architecture.sms:
            return name
    known = ", ".join(f"SM{target}" for target in TARGETS)
    raise BuildError("the plugins are not built for this GPU", where="GPU", found=f"SM{sm}", expected=known)


def target_of(sm: int) -> str:
    """What nvcc compiles for a compute capability."""
    return TARGETS[max(target for target in TARGETS if target <= sm and target // 10 == sm // 10)]


def build_kernels(context: Context, jobs: int) -> tuple[Path, str | None]:
    """Compiles the kernels' sources and links them with `launch.cu`.

    Returns:
        The library, and why it is without the stages of the mixture of experts; None if it has them.
    """
    chain = toolchain_from_machine()
    sources = [*sorted(KERNELS.glob("*/*.cu")), HERE / "launch.cu", OPTIONAL]
    with ThreadPoolExecutor(jobs) as pool:
        results = list(pool.map(lambda source: _object(chain, source, context), sources))
    without = None
    objects = []
    for source, (target, error) in zip(sources, results, strict=True):
        if error and source != OPTIONAL:
            raise BuildError("the kernels do not compile", where=source, found=error)
        without = error or without
        objects += [] if error else [target]
    library = WORK / f"kernels-{_digest(*map(str, objects))}.so"
    if not library.exists():
        flags = ["-shared", "-Wl,--no-undefined", *map(str, objects), str(chain.runtime), *LINK_LIBRARIES]
        error = _run([str(chain.cxx), *flags, "-o", str(library)])
        if error:
            raise BuildError("the kernels do not link", where=library, found=error)
    return library, without


def _object(chain: Toolchain, source: Path, context: Context) -> tuple[Path, str | None]:
    """An object file, and what went wrong."""
    sm = target_of(context.sm)
    options = ["-optf", str(REPOSITORY / "plugins" / "nvcc.options"), "-ccbin", str(chain.cxx)]
    flags = [*options, f"-gencode=arch=compute_{sm},code=sm_{sm}", f"-I{KERNELS}"]
    texts = [path.read_text() for path in sorted(KERNELS.rglob("*.*h*")) if path.suffix in (".h", ".cuh")]
    key = _digest(chain.nvcc_version, *flags, Path(options[1]).read_text(), source.read_text(), *texts)
    target = WORK / f"{source.stem}-{key}.o"
    if target.exists():
        return target, None
    context.log(f"compiling {source.name} for SM{context.sm}")
    WORK.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial.o")
    error = _run([str(chain.nvcc), *flags, "-c", str(source), "-o", str(partial)])
    if error is None:
        partial.replace(target)
    return target, error


def _run(command: list[str]) -> str | None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    printed = result.stdout + result.stderr
    errors = [line for line in printed.splitlines() if "ptxas info" not in line or SERIALIZED_WGMMA in line]
    if result.returncode == 0 and SERIALIZED_WGMMA not in printed:
        return None
    return "\n".join(errors[-30:]) or f"exit status {result.returncode}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]
