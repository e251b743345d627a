"""What NVIDIA's Python bindings say of the plugins in a registry; prints one line of JSON a finding."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def describe_creators(trt: Any, registry: Any) -> None:
    """Each creator, and a plugin that it makes of nothing."""
    for creator in registry.all_creators:
        if creator.plugin_namespace != "r1trt":
            continue
        field_types = {field.name: field.type.name for field in creator.field_names}
        created = creator.create_plugin("layer", trt.PluginFieldCollection([]), trt.TensorRTPhase.BUILD)
        finding = {
            "creator": creator.name,
            "version": creator.plugin_version,
            "interface": [creator.interface_info.kind, creator.interface_info.major],
            "fields": field_types,
            **facts_of_plugin(trt, created),
        }
        print(json.dumps(finding), flush=True)


def facts_of_plugin(trt: Any, plugin: Any) -> dict[str, Any]:
    """What the bindings can ask of a plugin that is written in C++."""
    core, build, runtime = (
        plugin.get_capability_interface(getattr(trt.PluginCapabilityType, kind))
        for kind in ("CORE", "BUILD", "RUNTIME")
    )
    return {
        "plugin": [core.plugin_name, core.plugin_version, core.plugin_namespace],
        "interfaces": [
            [interface.interface_info.kind, interface.interface_info.major]
            for interface in (plugin, core, build, runtime)
        ],
        "outputs": build.num_outputs,
        "formats": build.format_combination_limit,
        "metadata": build.metadata_string,
        "timing_cache_id": build.timing_cache_id,
    }


def reject_a_field(trt: Any, registry: Any) -> None:
    """A plugin is refused, and not made of something else."""
    creator = registry.get_creator("R1DynamicMoE", "1", "r1trt")
    field = trt.PluginField("top_k", np.array([99], np.int32), trt.PluginFieldType.INT32)
    collection = trt.PluginFieldCollection([field])
    made = creator.create_plugin("layers.7", collection, trt.TensorRTPhase.BUILD)
    print(json.dumps({"refused": made is None}), flush=True)


def create(trt: Any, registry: Any, operator: str, fields: dict[str, float], phase: str) -> Any:
    """A plugin of named fields; None where it is refused."""
    kinds = {
        name: (np.float32, trt.PluginFieldType.FLOAT32)
        if isinstance(value, float)
        else (np.int32, trt.PluginFieldType.INT32)
        for name, value in fields.items()
    }
    # They point to the arrays, which have to live as long.
    arrays = {name: np.array([value], kinds[name][0]) for name, value in fields.items()}
    listed = [trt.PluginField(name, array, kinds[name][1]) for name, array in arrays.items()]
    creator = registry.get_creator(operator, "1", "r1trt")
    return creator.create_plugin(
        "model.layers.0.op", trt.PluginFieldCollection(listed), getattr(trt.TensorRTPhase, phase)
    )
