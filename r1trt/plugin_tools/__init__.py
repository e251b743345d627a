"""The TensorRT plugin library: built, found, described and hashed, without TensorRT and without a GPU."""

from r1trt.plugin_tools.build import PluginBuildConfig, build_plugins
from r1trt.plugin_tools.library import PluginLibrary, find_library, library_from_path
from r1trt.plugin_tools.status import plugins_status
from r1trt.plugin_tools.toolchain import Toolchain, toolchain_from_machine

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
