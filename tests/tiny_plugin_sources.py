"""A plugin library's sources in small: one C++ file, one kernel, and the real build's two lists."""

from __future__ import annotations

import shutil
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"

REGISTER = """
#include <cstdint>
extern "C" int tinyLaunch();
__attribute__((used)) char const buildInfo[] = "R1TRT_PLUGINS_INFO:" R1TRT_BUILD_INFO;
extern "C" __attribute__((visibility("default"))) void* const* getCreators(int32_t& count) {
  count = tinyLaunch() < 0 ? 1 : 0;
  static void* none = nullptr;
  return &none;
}
extern "C" __attribute__((visibility("default"))) void setLoggerFinder(void*) {}
"""
KERNEL = """
__global__ void tiny(float* x) { x[threadIdx.x] += 1.0F; }
extern "C" int tinyLaunch() {
  tiny<<<0, 1>>>(nullptr);
  return static_cast<int>(cudaGetLastError());
}
"""


def write_tiny_sources(directory: Path, *, register: str = REGISTER, kernel: str = KERNEL) -> Path:
    """Writes the sources; they build in seconds, into a library without plugins."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "register.cpp").write_text(register)
    (directory / "tiny.cu").write_text(kernel)
    for name in ("exports.map", "nvcc.options"):
        shutil.copyfile(PLUGINS / name, directory / name)
    return directory
