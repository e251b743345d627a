"""Whether a plan fits its model and its architecture: every problem at once, before anything is built."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import onnx_ir as ir

from r1trt.arch import Backend, architecture
from r1trt.errors import PlanError
from r1trt.graph.edit import data_type
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.ops.registry import layer_operator_of, operator_of_layer
from r1trt.precision.plan import PrecisionPlan
from r1trt.text import listing


def layer_nodes(model: ir.Model) -> dict[str, ir.Node]:
    """The nodes that a plan has an entry for, by name, in graph order.

    Raises:
        PlanError: Two layers have the same name, or one has none.
    """
    found: dict[str, ir.Node] = {}
    for node in model.graph:
        if layer_operator_of(node) is None:
            continue
        if not node.name or node.name in found:
            raise PlanError(
                "Layers need distinct names to be planned.",
                where=f"a node of type {node.op_type}",
                found=node.name or "no name",
                fix="export the graph again",
            )
        found[node.name] = node
    return found


def graph_hash(model: ir.Model) -> str:
    """SHA-256 of what a plan depends on: layers' names and types; weights' names, types and shapes.

    Capacity, batch sizes and where the weights lie do not enter, so a plan outlives a longer cache or a copy.
    """
    digest = hashlib.sha256()
    for name, node in layer_nodes(model).items():
        digest.update(f"{name}\0{node.op_type}\n".encode())
    for name, value in sorted(model.graph.initializers.items()):
        if isinstance(value.const_value, ir.ExternalTensor):
            digest.update(f"{name}\0{value.dtype}\0{value.shape}\n".encode())
    return digest.hexdigest()


def check_plan_fits_model(plan: PrecisionPlan, model: ir.Model) -> None:
    """Compare a plan with the exported graph.

    Args:
        plan: The plan.
        model: The exported graph.

    Raises:
        PlanError: Lists each missing, unexpected or mistyped layer, each that does not fit its node, and
            another model's hash.
    """
    nodes = layer_nodes(model)
    problems = [
        f"layer '{name}' ({node.op_type}) has no entry"
        for name, node in nodes.items()
        if name not in plan.layers
    ]
    for name, layer in plan.layers.items():
        if name not in nodes:
            problems.append(f"the model has no layer '{name}'")
        elif nodes[name].op_type != layer.op:
            problems.append(f"'{name}' is {nodes[name].op_type} in the model, {layer.op} in the plan")
        else:
            problems += [f"'{name}': {problem}" for problem in _node_problems(nodes[name], layer)]
    if not problems and plan.model_hash != graph_hash(model):
        problems.append(f"model_hash is {plan.model_hash}, the model's is {graph_hash(model)}")
    _raise(
        "The precision plan does not fit the model.",
        problems,
        "make a plan for this model, or correct the entries",
    )


def _node_problems(node: ir.Node, layer: LayerPrecision) -> Iterator[str]:
    operator = layer_operator_of(node)
    return iter(()) if operator is None else operator.node_problems(node, layer)


def check_plan(plan: PrecisionPlan, arch: str, backend: Backend | None = None) -> None:
    """Refuse what a builder would refuse late, or would get wrong in silence.

    Args:
        plan: The plan.
        arch: `--arch` to build for.
        backend: Builder, where it is known.

    Raises:
        PlanError: FP8 for an architecture without it, a plan made for another architecture, or activations
            that a TensorRT plugin has no kernels for.
    """
    _raise(
        f"The precision plan cannot be built for --arch {arch}.",
        list(_arch_problems(plan, arch)),
        f"build with --arch {plan.arch}, or make a plan for {arch}"
        if plan.arch != arch
        else "plan with --int8 or --bf16, or build for ada, hopper or blackwell",
    )
    _require_scales(plan, backend)
    if backend == "tensorrt":
        _raise(
            "The precision plan cannot be built with TensorRT: its plugins compute in other types.",
            list(_plugin_problems(plan)),
            "build with --bf16 or --fp8, give these layers bf16 in the plan, or leave --plugins all out",
        )
    elif backend is not None:
        _raise(
            f"The precision plan cannot be built with {backend}, which takes no plugins.",
            [
                f"'{name}': implementation is plugin"
                for name, layer in plan.layers.items()
                if layer.implementation == "plugin"
            ],
            "build with --backend tensorrt, or make a plan for this builder",
        )


def _require_scales(plan: PrecisionPlan, backend: Backend | None) -> None:
    """Refuse scalings that the builder does not multiply by."""
    if backend not in (None, "onnxruntime"):
        _raise(
            f"The precision plan cannot be built with {backend}: weights in blocks are ONNX Runtime's.",
            [
                f"'{name}': block_size is given"
                for name, layer in plan.layers.items()
                if layer.block_size is not None
            ],
            "build with --arch cpu, or give these layers int8 weights with one scale a row",
        )
        _raise(
            f"The precision plan cannot be built with {backend}: its caches have the types of their layers.",
            [f"'{name}': cache is {layer.cache}" for name, layer in plan.layers.items() if layer.cache],
            "build with --arch cpu, or remove cache from these layers",
        )
    if backend == "tensorrt-rtx":
        _raise(
            "The precision plan cannot be built with TensorRT-RTX, which multiplies by no block scales.",
            [f"'{name}': own_scales is given" for name, layer in plan.layers.items() if layer.own_scales],
            "give these layers bf16 in the plan, or fp8_e4m3 with scales of their own",
        )


def _plugin_problems(plan: PrecisionPlan) -> Iterator[str]:
    for name, layer in plan.layers.items():
        if layer.implementation == "native":
            continue
        operator = operator_of_layer(layer)
        # An FP8 input is quantized inside of the plugin: its activations have the output's type.
        if operator.plugin_types and data_type(layer.output) not in operator.plugin_types:
            known = [kind for kind in operator.types.output if data_type(kind) in operator.plugin_types]
            yield (
                f"'{name}': the activations are {layer.output}, but the plugin of {layer.op} has kernels for "
                f"{' and '.join(known)} alone"
            )


def _arch_problems(plan: PrecisionPlan, arch: str) -> Iterator[str]:
    if plan.arch != arch:
        yield f"the plan was made for --arch {plan.arch}"
    if not plan.uses_fp8:
        return
    target = architecture(arch)
    if not target.fp8:
        yield target.fp8_reason


def _raise(message: str, problems: list[str], fix: str) -> None:
    if problems:
        raise PlanError(message, found=listing(problems), fix=fix)
