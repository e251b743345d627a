"""A mixture of experts: expert weights stacked by reference, then one R1DynamicMoE node."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from r1trt.config import MoeConfig, scale_shape
from r1trt.export.forward import FLOAT, Forward, sizes
from r1trt.export.graph import GraphEmitter
from r1trt.families import family_of
from r1trt.ops.cost import Dims
from r1trt.ops.dynamic_moe import DYNAMIC_MOE
from r1trt.ops.expert_parts import ExpertPart, fewest_parts
from r1trt.ops.moe_spec import MoeSpec


def _concat(emit: GraphEmitter, name: str, parts: list[ir.Value]) -> ir.Value:
    """Join weights along their rows. A graph node, so that a sharded checkpoint's experts are not copied."""
    dtype, rows = parts[0].dtype, sum(int(sizes(part)[0]) for part in parts)
    assert dtype is not None
    return emit.node("Concat", name, parts, [(dtype, (rows, *sizes(parts[0])[1:]))], {"axis": 0})[0]


def _stacked(emit: GraphEmitter, name: str, parts: list[ir.Value], shape: Dims) -> ir.Value:
    joined = _concat(emit, f"{name}.concat", parts)
    target = emit.constant("shape." + "_".join(map(str, shape)), np.array(shape, np.int64))
    assert joined.dtype is not None
    return emit.node("Reshape", f"{name}.stack", [joined, target], [(joined.dtype, shape)])[0]


def _router_weight(emit: GraphEmitter, name: str) -> ir.Value:
    weight = emit.weight(f"{name}.weight")
    return emit.in_fp32(weight, f"{name}.cast")


def _router_bias(emit: GraphEmitter, moe: MoeConfig, name: str) -> ir.Value | None:
    if moe.scoring != "sigmoid":
        return None
    bias = emit.weight(f"{name}.e_score_correction_bias")
    return emit.in_fp32(bias, f"{name}.bias_cast")


def _experts(emit: GraphEmitter, spec: MoeSpec, prefix: str) -> dict[str, ir.Value]:
    """Stacked experts of each part, and the block scales of FP8 experts, by the operator's names."""
    width, hidden = spec.expert_width, spec.hidden_size
    found: dict[str, ir.Value] = {}
    for part in spec.parts:
        suffix = f".{part.index}" if spec.expert_parts > 1 else ""
        for label, projections, shape in (
            ("gate_up", ("gate_proj", "up_proj"), (width, hidden)),
            ("down", ("down_proj",), (hidden, width)),
        ):
            stacks = _stacked_projections(emit, part, prefix, label, projections, shape, suffix)
            found |= {part.input(name): value for name, value in stacks.items()}
    return found


def _stacked_projections(
    emit: GraphEmitter,
    part: ExpertPart,
    prefix: str,
    label: str,
    projections: tuple[str, ...],
    shape: tuple[int, int],
    suffix: str,
) -> dict[str, ir.Value]:
    """`shape` is that of one projection of one expert; `suffix` tells the nodes of parts apart."""
    names = [
        f"{prefix}.experts.{expert}.{projection}.weight"
        for expert in range(part.first, part.stop)
        for projection in projections
    ]
    fp8 = emit.is_fp8(names[0])

    def stacked(what: str, parts: list[ir.Value], rows: int, columns: int) -> ir.Value:
        whole = (part.count, len(projections) * rows, columns)
        return _stacked(emit, f"{prefix}.experts.{what}{suffix}", parts, whole)

    weights = [emit.stored(name, ir.DataType.UINT8 if fp8 else None) for name in names]
    found = {f"w_{label}": stacked(label, weights, *shape)}
    if fp8:
        rows, columns = scale_shape(shape)
        scales = stacked(f"{label}_scale", [emit.stored_scales(name) for name in names], rows, columns)
        found[f"{label}_scale"] = emit.in_fp32(scales, f"{prefix}.experts.{label}_scale{suffix}.cast")
    return found


def _shared_expert(emit: GraphEmitter, moe: MoeConfig, name: str) -> dict[str, ir.Value | None]:
    if not moe.shared_width:
        return {"shared_gate_up": None, "shared_down": None}
    parts = [emit.weight(f"{name}.{part}_proj.weight") for part in ("gate", "up")]
    down = emit.weight(f"{name}.down_proj.weight")
    gate_up = _concat(emit, f"{name}.gate_up.concat", parts)
    return {"shared_gate_up": gate_up, "shared_down": down}


def moe_mlp(forward: Forward, index: int, config: MoeConfig, x: ir.Value) -> ir.Value:
    """Emit the MoE of layer `index` for x [B,S,D]; every expert of the checkpoint is an input of the node."""
    emit, prefix = forward.emit, f"model.layers.{index}.mlp"
    hidden, names = forward.model.hidden_size, family_of(forward.model).moe_names
    w_router = _router_weight(emit, f"{prefix}.{names.router}")
    router_bias = _router_bias(emit, config, f"{prefix}.{names.router}")
    fp8 = emit.is_fp8(f"{prefix}.experts.0.down_proj.weight")
    parts = fewest_parts(config.num_experts, 2 * config.expert_width * hidden)
    spec = DYNAMIC_MOE.spec_from_config(config, hidden, ir.DataType.UINT8 if fp8 else FLOAT, parts)
    inputs = {
        "x": x,
        "seq_len": forward.seq_len,
        "w_router": w_router,
        "router_bias": router_bias,
        **_experts(emit, spec, prefix),
        **_shared_expert(emit, config, f"{prefix}.{names.shared}"),
    }
    return emit.operator(DYNAMIC_MOE, f"{prefix}.moe", inputs, [(FLOAT, sizes(x))], spec.attributes())[0]
