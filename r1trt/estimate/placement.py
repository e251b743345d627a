"""A model on a device: what has to lie in its memory, how many devices hold it, how long calls take."""

from __future__ import annotations

import math
from dataclasses import dataclass

from r1trt.arch import BuildPrecision, architecture
from r1trt.config.checks import require
from r1trt.estimate.gpus import GB, Device
from r1trt.estimate.planned import PlannedModel
from r1trt.estimate.steps import engine_bytes
from r1trt.estimate.times import seconds_of_call
from r1trt.machine import memory_of_machine
from r1trt.ops.cost import CallSize

RESERVED_BYTES = GB
"""What a runtime and its libraries take of each device, before any model."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """How a model is used.

    Attributes:
        batch: Rows at once.
        max_seq_len: Tokens of a row's cache.
        max_input_len: Tokens of a prefill call.
    """

    batch: int
    max_seq_len: int
    max_input_len: int

    def __post_init__(self) -> None:
        """Raises ConfigError for sizes that contradict each other."""
        require(self.batch >= 1, "--batch is too small", found=self.batch, expected="at least 1")
        require(
            1 <= self.max_input_len <= self.max_seq_len,
            "A call cannot have more tokens than the KV cache holds",
            found=f"--max-input-len {self.max_input_len}",
            expected=f"1 to --max-seq-len {self.max_seq_len}",
        )

    @property
    def prefill(self) -> CallSize:
        """A call of as many prompt tokens as fit, on an empty cache."""
        return CallSize(batch=self.batch, tokens=self.max_input_len)

    @property
    def decode(self) -> CallSize:
        """The last token that the cache takes: the slowest."""
        return CallSize(batch=self.batch, tokens=1, past=self.max_seq_len - 1)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """A model on one kind of device.

    Attributes:
        device: The device's name.
        title: The maker's name for it.
        arch: The `--arch` to build for.
        precision: Precision of the plan.
        batch: Rows at once.
        engine_bytes: The engine.
        kv_bytes: The KV cache of all rows.
        activation_bytes: The largest layer's inputs and results.
        memory: Bytes of one device.
        count: Devices that hold all of it; None for a CPU whose machine does not.
        prefill_seconds: A prefill call, by the roofline.
        decode_seconds: A decode call with a full cache, likewise.
    """

    device: str
    title: str
    arch: str
    precision: BuildPrecision
    batch: int
    engine_bytes: int
    kv_bytes: int
    activation_bytes: int
    memory: int
    count: int | None
    prefill_seconds: float
    decode_seconds: float

    @property
    def needed_bytes(self) -> int:
        """All that has to lie in the devices' memory, without what each reserves."""
        return self.engine_bytes + self.kv_bytes + self.activation_bytes


def placement(planned: PlannedModel, device: Device, use: Use) -> Placement:
    """Puts a planned model on as many devices as hold it.

    Raises:
        ConfigError: The device does not compute in one of the plan's types.
    """
    on_cpu = not architecture(device.arch).sms
    memory = memory_of_machine().total if device.memory is None else device.memory
    sizes = {
        "engine_bytes": planned.bytes if on_cpu else engine_bytes(planned.bytes),
        "kv_bytes": planned.kv_cache.bytes(use.batch, use.max_seq_len),
        "activation_bytes": planned.activation_bytes(use.prefill),
    }
    # Of a machine with less memory than what is reserved, no number holds anything.
    count = math.ceil(sum(sizes.values()) / max(memory - RESERVED_BYTES, 1))
    share = 1 if on_cpu else count
    return Placement(
        device=device.name,
        title=device.title,
        arch=device.arch,
        precision=planned.precision,
        batch=use.batch,
        memory=memory,
        count=None if on_cpu and count > 1 else count,
        prefill_seconds=seconds_of_call(planned, use.prefill, device, share),
        decode_seconds=seconds_of_call(planned, use.decode, device, share),
        **sizes,
    )
