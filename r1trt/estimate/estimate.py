"""`r1trt estimate`: everything that follows from a model's configuration and headers, in one result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from r1trt.arch import ARCHITECTURES, Architecture, BuildPrecision
from r1trt.cuda_driver import compute_capabilities
from r1trt.estimate.gpus import DEVICES
from r1trt.estimate.kv_cache import KvCache
from r1trt.estimate.parameters import active_parameters, parameters
from r1trt.estimate.placement import Placement, Use, placement
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.refusal import obstacles
from r1trt.estimate.source import SizedModel
from r1trt.estimate.steps import Step, build_step, export_step, validation_step
from r1trt.machine import Memory, free_disk, memory_of_machine

PRECISIONS: tuple[BuildPrecision, ...] = ("fp32", "bf16", "int8", "fp8", "int4")


@dataclass(frozen=True, kw_only=True)
class StepHere:
    """A step, and what this machine lacks for it.

    Attributes:
        step: What it takes.
        obstacles: What is missing here; empty where it can be done.
    """

    step: Step
    obstacles: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a model takes.

    Attributes:
        name: What was asked for.
        architecture: Hugging Face's class name.
        num_layers: Decoder layers.
        from_headers: Whether headers of weight files were read; else the sizes are those of config.json.
        parameters: Elements of all weights.
        active_parameters: Those that one token uses.
        stored_bytes: Bytes as stored, by safetensors' name of the type.
        weight_bytes: Bytes of the typed weights by precision, by the type's name in plans.
        kv_cache: The KV cache by precision.
        use: Batch and lengths that follow.
        memory: This machine's memory.
        free_disk: Free bytes where results go.
        steps: The long steps.
        placements: The model on every kind of device.
    """

    name: str
    architecture: str
    num_layers: int
    from_headers: bool
    parameters: int
    active_parameters: int
    stored_bytes: Mapping[str, int]
    weight_bytes: Mapping[BuildPrecision, Mapping[str, int]]
    kv_cache: Mapping[BuildPrecision, KvCache]
    use: Use
    memory: Memory
    free_disk: int
    steps: tuple[StepHere, ...]
    placements: tuple[Placement, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def estimate_of(model: SizedModel, use: Use, directory: Path, *, copy: bool = False) -> Estimate:
    """Estimates a model.

    Args:
        model: The model.
        use: Batch and lengths.
        directory: Where results would go.
        copy: An export would copy the weights.
    """
    by_arch = {
        (arch.name, precision): planned_model(model, arch.name, precision, use.max_seq_len)
        for arch in ARCHITECTURES.values()
        for precision in _precisions(arch)
    }
    # Of architectures that differ, the one that keeps most of a checkpoint's FP8.
    largest_first = sorted(by_arch.values(), key=lambda planned: -planned.bytes)
    by_precision = {planned.precision: planned for planned in largest_first}
    memory, free = memory_of_machine(), free_disk(directory)
    export = export_step(model, copy=copy)
    steps = [StepHere(step=export, obstacles=tuple(obstacles(export, memory, free)))]
    for (name, _), planned in by_arch.items():
        steps.append(_build_here(model, planned, ARCHITECTURES[name], memory, free))
    validation = validation_step(parameters(model))
    steps.append(StepHere(step=validation, obstacles=tuple(obstacles(validation, memory, free))))
    return Estimate(
        name=model.name,
        architecture=model.config.architecture,
        num_layers=model.config.num_layers,
        from_headers=model.has_weights,
        parameters=parameters(model),
        active_parameters=active_parameters(model),
        stored_bytes=model.stored_bytes,
        weight_bytes={precision: by_precision[precision].weight_bytes for precision in PRECISIONS},
        kv_cache={precision: by_precision[precision].kv_cache for precision in PRECISIONS},
        use=use,
        memory=memory,
        free_disk=free,
        steps=tuple(steps),
        placements=tuple(_placements(by_arch, use)),
    )


def _precisions(arch: Architecture) -> Iterator[BuildPrecision]:
    """On a CPU floating-point types narrower than FP32 are simulated, which says nothing of their cost."""
    if not arch.sms:
        yield from ("fp32", "int8", "int4")
        return
    yield "bf16"
    yield "fp8" if arch.fp8 else "int8"


def _build_here(
    model: SizedModel, planned: PlannedModel, arch: Architecture, memory: Memory, free: int
) -> StepHere:
    # NOTES: TensorRT builds for the GPU that is there, and TensorRT-RTX for all that it knows.
    engines = len(arch.offline_sms) or min(1, len(arch.sms))
    step = build_step(model, planned, arch.backend, engines)
    if arch.backend == "tensorrt" and not set(arch.sms) & set(compute_capabilities()):
        return StepHere(step=step, obstacles=(f"{arch.name} GPU: needed, to finish it",))
    return StepHere(step=step, obstacles=tuple(obstacles(step, memory, free)))


def _placements(by_arch: Mapping[tuple[str, BuildPrecision], PlannedModel], use: Use) -> Iterator[Placement]:
    for device in DEVICES.values():
        for (name, _), planned in by_arch.items():
            if name == device.arch:
                yield placement(planned, device, use)
