"""`r1trt profile`: a model, a batch of requests and a device become a profile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from r1trt.arch import BuildPrecision
from r1trt.artifacts.build import BuildArtifact
from r1trt.artifacts.trusted_code import require_trusted_build
from r1trt.config import GqaConfig, MoeConfig
from r1trt.errors import UnavailableError, UsageError
from r1trt.estimate.gpus import DEVICES, Device
from r1trt.estimate.planned import PlannedModel
from r1trt.machine import OthersShare
from r1trt.precision.plan import PrecisionPlan
from r1trt.profile.breakdown import rows_of_phase, total_row
from r1trt.profile.measured import Measured
from r1trt.profile.options import METRICS, Breakdown, Metric
from r1trt.profile.request_file import request_file
from r1trt.profile.requests import RequestBatch, default_requests
from r1trt.profile.result import PhaseProfile, Profile
from r1trt.profile.subject import Subject, subject_from_name
from r1trt.profile.work import work_of_calls
from r1trt.progress import Progress, ignore
from r1trt.text import size_text

_BUSY = 0.05
"""Share of the processors from which on others disturb a measurement."""


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Options of a profile.

    Attributes:
        model: A checkpoint, export, build or config.json, or a known model's name.
        input: File that says what is answered; None takes one request of usual lengths.
        metrics: What is shown.
        breakdown: What a row is.
        device: Whose roofline; None takes that of a build's architecture, or an H100.
        precision: Types of a model that is not built; None takes BF16 on a GPU and FP32 on a CPU.
        measure: Run a build that this machine can run.
        repeats: Prefills that are measured; their median counts.
        threads: CPU threads; None takes one for each core that may be used.
        trust_plugins: Code that a build brings may run.
    """

    model: str
    input: Path | None = None
    metrics: tuple[Metric, ...] = METRICS
    breakdown: Breakdown = "layer_type"
    device: str | None = None
    precision: BuildPrecision | None = None
    measure: bool = True
    repeats: int = 3
    threads: int | None = None
    trust_plugins: bool = False

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UsageError("--repeats is too small.", found=self.repeats, expected="at least 1")
        if self.device is not None and self.device not in DEVICES:
            raise UsageError("There is no such device.", found=self.device, expected=" | ".join(DEVICES))


def profile_model(config: ProfileConfig, progress: Progress = ignore) -> Profile:
    """Profiles a model.

    Args:
        config: What, and how.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: There is no such model, its input is of another form or too long for it, or the device
            does not compute in its types.
    """
    subject = subject_from_name(config.model)
    requests = _requests(subject, config.input)
    subject.require_fits(requests)
    device = subject.default_device() if config.device is None else DEVICES[config.device]
    planned = subject.planned(device, config.precision, requests)
    measured, reason = _measured(subject, planned, requests, config, progress)
    phases = _phases(subject, planned, requests, device, config, measured)
    notes = [reason, *_notes(subject, requests, device, phases)]
    return Profile(
        model=subject.sized.name,
        kind=subject.kind,
        architecture=subject.sized.config.architecture,
        num_layers=subject.sized.config.num_layers,
        precision=planned.precision,
        device=device,
        requests=requests,
        cache_tokens=_cache_tokens(subject, requests),
        breakdown=config.breakdown,
        metrics=config.metrics,
        phases=phases,
        measured=measured,
        notes=tuple(filter(None, notes)),
    )


def _requests(subject: Subject, path: Path | None) -> RequestBatch:
    if path is None:
        found = default_requests(subject.longest)
        return found if subject.has_cache else RequestBatch(prompt_tokens=found.prompt_tokens, new_tokens=1)
    return request_file(path).requests(subject.tokenizer, vocab_size=subject.sized.config.vocab_size)


def _cache_tokens(subject: Subject, requests: RequestBatch) -> int:
    return subject.capacity or (requests.tokens if subject.has_cache else 0)


def _measured(
    subject: Subject,
    planned: PlannedModel,
    requests: RequestBatch,
    config: ProfileConfig,
    progress: Progress,
) -> tuple[Measured | None, str]:
    """A measurement, or why there is none."""
    build = subject.build
    if build is None or not config.measure or "latency" not in config.metrics:
        return None, ""
    if build.manifest.parts:
        return None, "not measured: this build is in parts"
    if not build.manifest.is_finished:
        return None, "not measured: this build has no engine yet"
    others = OthersShare()
    try:
        measured = _measurement(build, planned.plan, requests, config, progress)
    except UnavailableError as error:
        return None, f"not measured: {error.message}"
    measured = replace(measured, others_share=others.share())
    busy = f"other processes took {measured.others_share:.0%} of the processors: measured times are longer"
    return measured, busy if measured.others_share > _BUSY else ""


def _measurement(
    build: BuildArtifact,
    plan: PrecisionPlan,
    requests: RequestBatch,
    config: ProfileConfig,
    progress: Progress,
) -> Measured:
    if build.manifest.backend == "onnxruntime":
        from r1trt.profile.onnxruntime import measured_on_cpu

        return measured_on_cpu(
            build, plan, requests, repeats=config.repeats, threads=config.threads, progress=progress
        )
    from r1trt.profile.tensorrt import measured_on_gpu

    require_trusted_build(build, trusted=config.trust_plugins)
    return measured_on_gpu(build, plan, requests, repeats=config.repeats, progress=progress)


def _phases(
    subject: Subject,
    planned: PlannedModel,
    requests: RequestBatch,
    device: Device,
    config: ProfileConfig,
    measured: Measured | None,
) -> tuple[PhaseProfile, ...]:
    model, cache_tokens = subject.sized.config, _cache_tokens(subject, requests)
    phases = []
    for name, calls in requests.calls(subject.max_input_len).items():
        work = work_of_calls(planned, model, calls, device, cache_tokens)
        seen = None if measured is None else measured.phases[name]
        total = total_row(planned, work, seen)
        phases.append(
            PhaseProfile(
                name=name,
                calls=len(calls),
                tokens=sum(call.batch * call.tokens for call in calls),
                rows=tuple(rows_of_phase(planned, model, work, config.breakdown, seen)),
                total=total,
                parts=tuple(rows_of_phase(planned, model, work, "part", seen)),
                peak_bytes=total.weight_bytes + total.kv_bytes + total.live_bytes,
                measured=seen,
            )
        )
    return tuple(phases)


def _notes(
    subject: Subject, requests: RequestBatch, device: Device, phases: tuple[PhaseProfile, ...]
) -> Iterator[str]:
    """What the figures do not say by themselves."""
    peak = max(phase.peak_bytes for phase in phases)
    if device.memory is not None and peak > device.memory:
        held, room = size_text(peak), size_text(device.memory)
        yield f"{held} do not fit into the {room} of one {device.name}: times are of one that could hold them"
    layers = subject.sized.config.layers
    if any(isinstance(layer.attention, GqaConfig) and layer.attention.hla.gate for layer in layers):
        yield "both branches of hybrid-length attention are counted for every head; lam may skip one"
    adaptive = [layer.mlp for layer in layers if isinstance(layer.mlp, MoeConfig)]
    if any(mlp.adaptive_threshold < 1 for mlp in adaptive):
        yield "every token is counted with top_k experts; adaptive k may keep fewer"
    if requests.useful_share < 1:
        yield f"prompts are padded to the longest: {requests.useful_share:.1%} of their tokens are no padding"
