"""The TensorRT plugin library: built, found, described and hashed, without TensorRT and without a GPU."""

from r1trt.plugins.build import PluginBuildConfig, build_plugins
from r1trt.plugins.library import PluginLibrary, find_library, library_from_path
from r1trt.plugins.status import plugins_status
from r1trt.plugins.toolchain import Toolchain, toolchain_from_machine

__all__ = [
    "PluginBuildConfig",
    "PluginLibrary",
    "Toolchain",
    "build_plugins",
    "find_library",
    "library_from_path",
    "plugins_status",
    "toolchain_from_machine",
]
