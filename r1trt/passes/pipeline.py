"""Every list of passes, in the order they run: what turns an export into what each backend gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from r1trt.arch import Backend
from r1trt.errors import ExportError, R1TrtError
from r1trt.lowerings.statistics import Statistic
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.passes.add_probes import AddProbesPass, Probe
from r1trt.passes.alternate_experts import AlternateExpertsPass
from r1trt.passes.cancel_casts import CancelCastsPass
from r1trt.passes.check_onnx import CheckOnnxPass
from r1trt.passes.check_plan import CheckPlanPass
from r1trt.passes.check_traps import CheckBuilderFormsPass, CheckTypedPass
from r1trt.passes.choose_tokens import ChooseTokensPass
from r1trt.passes.external_experts import ExternalExpertsPass
from r1trt.passes.fp8_as_bytes import Fp8AsBytesPass
from r1trt.passes.fuse_attention import FuseAttentionPass
from r1trt.passes.fuse_norms import FuseNormsPass
from r1trt.passes.infer_types import InferTypesPass
from r1trt.passes.inline_bodies import InlineBodiesPass
from r1trt.passes.known_sizes import KnownSizesPass
from r1trt.passes.merge_products import MergeProductsPass
from r1trt.passes.name_absent_inputs import (
    CheckPluginTypesPass,
    NameAbsentInputsPass,
    RestoreAbsentInputsPass,
)
from r1trt.passes.pretranspose_weights import PretransposeWeightsPass
from r1trt.passes.realize_layers import RealizeLayersPass
from r1trt.passes.remove_cache import RemoveCachePass
from r1trt.passes.retype_interface import RetypeInterfacePass
from r1trt.passes.set_bodies import DropBodiesPass, SetBodiesPass
from r1trt.passes.set_capacity import SetCapacityPass
from r1trt.passes.set_weights import SetWeightsPass
from r1trt.passes.share_conversions import ShareConversionsPass
from r1trt.passes.simulate_bf16 import SimulateBf16Pass
from r1trt.precision.implementations import plugin_layers
from r1trt.precision.plan import PrecisionPlan

Pass = ir.passes.InPlacePass
Passes = list[Pass]
AfterPass = Callable[[str, ir.Model], None]


def passes_for(
    backend: Backend,
    plan: PrecisionPlan,
    *,
    capacity: int | None,
    sms: Sequence[int] = (),
    weights: Mapping[str, ir.TensorProtocol] | None = None,
    external_experts: bool = False,
) -> Passes:
    """What turns an exported graph into what a backend gets.

    Args:
        backend: Who builds or runs the result.
        plan: A plan for the graph, with all scales.
        capacity: Tokens of the KV cache; None for a scoring graph without one.
        sms: Compute capabilities that are built for.
        weights: Quantized weights that are made already, by name; the others are rounded to nearest.
        external_experts: Expert stacks become inputs, whose defaults are still there.
    """
    external: Passes = [ExternalExpertsPass()] if external_experts else []
    typing = typing_passes(plan, weights or {})
    cache = RemoveCachePass() if capacity is None else SetCapacityPass(capacity)
    if backend != "onnxruntime":
        return [cache, *typing, *external, *_builder_passes(backend, plan, sms)]
    # Prompts are read for what follows them; scoring graphs are asked for all logits.
    choice = [] if capacity is None else [ChooseTokensPass()]
    return [cache, *choice, *typing, *_cpu_engine_passes(external)]


def _builder_passes(backend: Backend, plan: PrecisionPlan, sms: Sequence[int]) -> Passes:
    """A typed graph into what a builder's parser takes."""
    if backend == "tensorrt":
        return [
            # TensorRT's own layers for what it has some for.
            SetBodiesPass("tensorrt-rtx", leave=plugin_layers(plan)),
            CheckOnnxPass(),
            InlineBodiesPass(),
            CheckBuilderFormsPass(backend, sms),
            # The other nodes become plugins.
            CheckPluginTypesPass(),
            NameAbsentInputsPass(),
        ]
    return [
        SetBodiesPass("tensorrt-rtx"),
        CheckOnnxPass(),
        InlineBodiesPass(),
        CheckBuilderFormsPass(backend, sms),
    ]


def _cpu_engine_passes(external: Passes) -> Passes:
    """A typed graph into what ONNX Runtime serves: fewer, larger nodes where all is FP32.

    Graphs that stand for another builder's arithmetic keep its layers, and have none of this.
    """
    return [
        MergeProductsPass(),
        FuseAttentionPass(),
        FuseNormsPass(),
        AlternateExpertsPass(),
        *external,
        *_onnxruntime_passes(CheckOnnxPass()),
        # What every layer would compute for itself, positions and masks, is computed once.
        InlineBodiesPass(keep="onnxruntime", inline=(DYNAMIC_ROPE.name, HLA_ATTENTION.name)),
        KnownSizesPass(),
        CommonSubexpressionEliminationPass(),
        PretransposeWeightsPass(),
    ]


def _onnxruntime_passes(*checks: Pass) -> Passes:
    """Bodies of a typed graph for ONNX Runtime, which has CPU kernels for FP32 alone.

    Experts have a body of their own in any type; narrower layers of other operators take those of
    TensorRT-RTX, whose arithmetic can be simulated.
    """
    return [
        Fp8AsBytesPass(),
        SetBodiesPass("onnxruntime", "tensorrt-rtx"),
        *checks,
        InlineBodiesPass(keep="onnxruntime"),
        InferTypesPass(),
        SimulateBf16Pass(),
    ]


def typing_passes(plan: PrecisionPlan, weights: Mapping[str, ir.TensorProtocol]) -> Passes:
    """A plan into a graph whose operators are calls without bodies."""
    return [
        CheckPlanPass(plan),
        DropBodiesPass(),
        # Each layer in its planned types; values between layers stay FLOAT.
        RetypeInterfacePass(plan),
        RealizeLayersPass(plan),
        SetWeightsPass(weights),
        # Layers that agree on a type hand it on directly.
        CancelCastsPass(),
        ShareConversionsPass(),
        # What nothing reads any more goes, and the result is checked.
        RemoveUnusedNodesPass(),
        CheckTypedPass(),
    ]


def simulation_passes() -> Passes:
    """What turns a builder's graph into the same arithmetic for ONNX Runtime's CPU.

    Plugins get bodies with the same roundings at the boundary.
    """
    return [RestoreAbsentInputsPass(), *_onnxruntime_passes()]


def scoring_passes() -> Passes:
    """An exported graph into one that scores whole prompts, whose operators are calls without bodies."""
    return [RemoveCachePass(), DropBodiesPass()]


def segment_passes(plan: PrecisionPlan) -> Passes:
    """What turns a piece of a scoring graph into a plan's arithmetic for ONNX Runtime, roundings included.

    Args:
        plan: Has the piece's layers, with all their scales, and may have others.
    """
    return [
        RealizeLayersPass(plan),
        CancelCastsPass(),
        ShareConversionsPass(),
        RemoveUnusedNodesPass(),
        CheckTypedPass(),
        *_onnxruntime_passes(),
    ]


def measured_passes() -> Passes:
    """What calibration runs, before anything is measured in it."""
    return [RemoveCachePass(), SetBodiesPass("onnxruntime")]


def calibration_passes(
    probes: Sequence[Probe], statistic: Statistic, scales: Mapping[str, Sequence[float]] | None = None
) -> Passes:
    """What turns an exported graph into one whose outputs are statistics of its activations."""
    return [
        *measured_passes(),
        AddProbesPass(probes, statistic, scales),
        RemoveUnusedNodesPass(),
    ]


def run_passes(model: ir.Model, passes: Iterable[Pass], *, after_pass: AfterPass | None = None) -> ir.Model:
    """Run passes over a copy of a graph.

    Args:
        model: The graph; it is left as it is. Its weights are shared with the copy, unread.
        passes: In order.
        after_pass: Called with each pass's name and the graph behind it, for dumps.

    Raises:
        ExportError: The graph is damaged in a way that only a pass comes upon.
    """
    with _damage_named("copying it"):
        result = model.clone()
    for step in passes:
        with _damage_named(type(step).__name__):
            result = step(result).model
        if after_pass is not None:
            after_pass(type(step).__name__, result)
    return result


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    """Makes ExportError of what a graph of another form raises: it may come from a damaged file."""
    try:
        yield
    except (R1TrtError, MemoryError):
        raise
    except Exception as error:  # onnx-ir gives each of its errors a RuntimeError around it
        cause = error.__cause__ or error
        raise ExportError(
            "The graph is not one that this program exports.",
            where=where,
            found=f"{type(cause).__name__}: {str(cause)[:500]}",
            fix="export the checkpoint again with this version",
        ) from error
