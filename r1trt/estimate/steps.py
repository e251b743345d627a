"""What the long steps take: memory, disk and time. The constants were measured (docs/estimate.md)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from r1trt.arch import Backend
from r1trt.estimate.parameters import parameters
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.source import SizedModel
from r1trt.runtime.onnxruntime_model import folds_constants

MB = 10**6

EXPORT_MEMORY, EXPORT_MEMORY_OF_TENSOR = 110 * MB, 7500
GRAPH_BYTES_OF_TENSOR = 300
COMPANION_BYTES = 20 * MB
"""The tokenizer's files, the graphs and the plan beside the weights."""

WRITE_MEMORY = 430 * MB
"""Weights are typed in pieces, so that a build without a builder does not depend on their size."""

CALIBRATION_BYTES_OF_PARAMETER, FOLDED_BYTES_OF_PARAMETER = 4.5, 7.0
"""Calibration computes in FP32; small models keep FP32 copies of their weights, which is faster."""

BUILDER_MEMORY, BUILDER_SHARE = 450 * MB, 3.0
BUILDER_LEAST_SHARE = 2.0
"""A third of the builder's memory is the mapped weight file, which the kernel can drop and read again."""

VALIDATION_MEMORY, VALIDATION_BYTES_OF_PARAMETER = 2000 * MB, 14
FP32_BYTES = 4

ENGINE_SHARE, ENGINE_BYTES = 1.01, 15 * MB

EXPORT_SECONDS, EXPORT_SECONDS_OF_TENSOR = 0.9, 126e-6
COPIED_IN_SECOND = 450 * MB
BUILD_SECONDS, TYPED_IN_SECOND = 1.0, 200 * MB
"""Weights are looked through, typed and written."""
BUILDER_SECONDS, BUILT_IN_SECOND = 17.0, 48 * MB
"""A builder compiles and times kernels for each engine, whatever the weights, and then writes them."""
CALIBRATED_IN_SECOND = 3.5e6
COMPENSATION_MEMORY, COMPENSATED_IN_SECOND = 4000 * MB, 0.6e6
INVERSE_BYTES = 40
"""Beside calibration's: sums of products, their inverse, and one weight in FP32."""
VALIDATION_SECONDS, VALIDATED_IN_SECOND = 8.0, 6.5e6
"""Parameters, for the tokens that each has where no other number is given."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One long step.

    Attributes:
        name: The command, without its paths.
        memory: Bytes of main memory at its peak, mapped files included.
        least_memory: With less in the whole machine it cannot succeed.
        disk: Bytes that it writes.
        seconds: How long it may take on a machine like the one of the measurements: an order of magnitude.
    """

    name: str
    memory: int
    least_memory: int
    disk: int
    seconds: float


def export_step(model: SizedModel, *, copy: bool = False) -> Step:
    """An export: headers are read, and a graph is written; weights only if they are to be copied."""
    tensors = len(model.tensors) + len(model.scales)
    memory = EXPORT_MEMORY + EXPORT_MEMORY_OF_TENSOR * tensors
    stored = sum(model.stored_bytes.values()) if copy else 0
    return Step(
        name="export --copy" if copy else "export",
        memory=memory,
        least_memory=memory,
        disk=stored + GRAPH_BYTES_OF_TENSOR * tensors + COMPANION_BYTES,
        seconds=EXPORT_SECONDS + EXPORT_SECONDS_OF_TENSOR * tensors + stored / COPIED_IN_SECOND,
    )


def build_step(
    model: SizedModel,
    planned: PlannedModel,
    backend: Backend,
    engines: int,
    *,
    calibrated: bool = False,
    external_experts: bool = False,
    part_bytes: Sequence[int] = (),
) -> Step:
    """A build.

    Args:
        model: What is built.
        planned: The same in its types.
        backend: Builder.
        engines: Engines that it makes here; 0 where ONNX Runtime runs the graph, or the builder is elsewhere.
        calibrated: FP8 scales are given, and need not be measured.
        external_experts: Experts are inputs of the engine, and neither written nor built in.
        part_bytes: Bytes of what is constant in each part, where layers are divided over several engines.
    """
    parts = part_bytes or [planned.bytes - (planned.expert_bytes if external_experts else 0)]
    weights, stored = sum(parts), sum(model.stored_bytes.values())
    memory, seconds = WRITE_MEMORY, BUILD_SECONDS + (stored + weights) / TYPED_IN_SECOND
    if planned.plan.missing_scales and not calibrated:
        memory += _calibration_memory(model)
        seconds += parameters(model) / CALIBRATED_IN_SECOND
    if planned.precision == "int4":  # compensated, unless it is told not to
        memory += _calibration_memory(model) + COMPENSATION_MEMORY + _inverse_memory(model)
        seconds += parameters(model) / COMPENSATED_IN_SECOND
    least = WRITE_MEMORY
    if backend != "onnxruntime" and engines:
        memory = max(memory, builder_memory(max(parts)))
        least = least_builder_memory(max(parts))
        seconds += engines * sum(map(builder_seconds, parts))
    written = weights + (0 if backend == "onnxruntime" else engines * sum(map(engine_bytes, parts)))
    return Step(
        name=f"build --arch {planned.arch} --{planned.precision}",
        memory=memory,
        least_memory=least,
        disk=written + len(parts) * COMPANION_BYTES,
        seconds=seconds,
    )


def _inverse_memory(model: SizedModel) -> int:
    """Of the widest linear's sum of products: some copies in FP64."""
    widest = max((max(shape[1:], default=0) for shape in _linear_shapes(model)), default=0)
    return INVERSE_BYTES * widest**2


def _linear_shapes(model: SizedModel) -> Iterator[tuple[int, ...]]:
    for tensor in model.tensors.values():
        shape = tuple(int(size) for size in tensor.shape if isinstance(size, int))
        if len(shape) == 2:
            yield shape


def _calibration_memory(model: SizedModel) -> int:
    folds = folds_constants(sum(model.stored_bytes.values()))
    share = FOLDED_BYTES_OF_PARAMETER if folds else CALIBRATION_BYTES_OF_PARAMETER
    return int(share * parameters(model))


def finishing_step(weight_bytes: int, engines: int) -> Step:
    """A build whose typed weights, of so many bytes, are there already."""
    return Step(
        name="build",
        memory=builder_memory(weight_bytes),
        least_memory=least_builder_memory(weight_bytes),
        disk=engines * engine_bytes(weight_bytes),
        seconds=engines * builder_seconds(weight_bytes),
    )


def validation_step(parameter_count: int) -> Step:
    """A validation against the checkpoint, which PyTorch holds in FP32 beside the graphs."""
    return Step(
        name="validate",
        memory=VALIDATION_MEMORY + VALIDATION_BYTES_OF_PARAMETER * parameter_count,
        least_memory=FP32_BYTES * parameter_count,
        disk=MB,
        seconds=VALIDATION_SECONDS + parameter_count / VALIDATED_IN_SECOND,
    )


def builder_memory(weight_bytes: int) -> int:
    """Peak memory of a TensorRT builder for typed weights of so many bytes."""
    return BUILDER_MEMORY + int(BUILDER_SHARE * weight_bytes)


def least_builder_memory(weight_bytes: int) -> int:
    """The part of it that is not a file in memory."""
    return BUILDER_MEMORY + int(BUILDER_LEAST_SHARE * weight_bytes)


def builder_seconds(weight_bytes: int) -> float:
    """Time of a TensorRT builder for one engine with typed weights of so many bytes."""
    return BUILDER_SECONDS + weight_bytes / BUILT_IN_SECOND


def engine_bytes(weight_bytes: int) -> int:
    """Size of a TensorRT engine for typed weights of so many bytes."""
    return ENGINE_BYTES + int(ENGINE_SHARE * weight_bytes)
