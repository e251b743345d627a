"""The one table of what engines run on: NVIDIA's data sheets, and a CPU that was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from r1trt.errors import ConfigError

GB, TERA = 10**9, 10**12


@dataclass(frozen=True, kw_only=True)
class Device:
    """One GPU, or a CPU. Rates are dense (without sparsity), a second.

    Attributes:
        name: What options and tables call it.
        title: The maker's name for it.
        arch: The `--arch` to build for.
        memory: Bytes of its memory; None for a CPU, which has the machine's.
        bandwidth: Bytes to and from memory.
        operations: Operations by the type of a product's operands; a multiply-add is two. A type that is
            missing has no arithmetic of its own.
        reached_bandwidth: Share of `bandwidth` that good kernels reach.
        reached_operations: Share of `operations` that good kernels reach.
        words: What the driver's name of the device holds; empty where it names none.
        source: Where the figures are from.
    """

    name: str
    title: str
    arch: str
    memory: int | None
    bandwidth: float
    operations: Mapping[str, float]
    reached_bandwidth: float = 0.9
    reached_operations: float = 0.8
    words: tuple[str, ...] = ()
    source: str

    def rate(self, data_type: str) -> float:
        """Operations of a type that good kernels reach, a second.

        Raises:
            ConfigError: The device does not compute in this type.
        """
        if data_type not in self.operations:
            raise ConfigError(
                f"{self.name} does not compute in {data_type}.",
                expected=", ".join(self.operations),
                fix="name a device that does, or take a precision that it has",
            )
        return self.operations[data_type] * self.reached_operations

    @property
    def reachable_bandwidth(self) -> float:
        """Bytes that good kernels move, a second."""
        return self.bandwidth * self.reached_bandwidth


def _rates(fp32: float, bf16: float, fp8: float | None, int8: float) -> Mapping[str, float]:
    rates = {"fp32": fp32 * TERA, "bf16": bf16 * TERA, "int8": int8 * TERA}
    return MappingProxyType(rates if fp8 is None else {**rates, "fp8_e4m3": fp8 * TERA})


_ALL = (
    Device(
        name="a100",
        title="A100 SXM 80 GB",
        arch="ampere",
        memory=80 * GB,
        bandwidth=2.039 * TERA,
        operations=_rates(19.5, 312, None, 624),
        words=("A100", "80GB"),
        source="NVIDIA A100 data sheet, SXM 80 GB",
    ),
    Device(
        name="l40s",
        title="L40S",
        arch="ada",
        memory=48 * GB,
        bandwidth=0.864 * TERA,
        operations=_rates(91.6, 362, 733, 733),
        words=("L40S",),
        source="NVIDIA L40S data sheet",
    ),
    Device(
        name="rtx4090",
        title="GeForce RTX 4090",
        arch="ada",
        memory=24 * GB,
        bandwidth=1.008 * TERA,
        operations=_rates(82.6, 165.2, 330.3, 660.6),
        words=("RTX 4090",),
        source="NVIDIA Ada GPU architecture white paper, FP32 accumulation",
    ),
    Device(
        name="h100",
        title="H100 SXM 80 GB",
        arch="hopper",
        memory=80 * GB,
        bandwidth=3.35 * TERA,
        operations=_rates(67, 989, 1979, 1979),
        words=("H100", "HBM3"),
        source="NVIDIA H100 data sheet, SXM",
    ),
    Device(
        name="h200",
        title="H200 SXM 141 GB",
        arch="hopper",
        memory=141 * GB,
        bandwidth=4.8 * TERA,
        operations=_rates(67, 989, 1979, 1979),
        words=("H200",),
        source="NVIDIA H200 data sheet, SXM",
    ),
    Device(
        name="b200",
        title="B200 (HGX) 180 GB",
        arch="blackwell",
        memory=180 * GB,
        bandwidth=7.7 * TERA,
        operations=_rates(75, 2250, 4500, 4500),
        words=("B200",),
        source="NVIDIA HGX B200 data sheet, an eighth of the board's",
    ),
    Device(
        name="cpu",
        title="two cores of a server CPU",
        arch="cpu",
        memory=None,
        bandwidth=21 * GB,
        operations=MappingProxyType({"fp32": 0.16 * TERA, "int8": 0.24 * TERA}),
        reached_bandwidth=1.0,
        reached_operations=1.0,
        source="measured: 40 tokens/s of decode and 600 of prefill of SmolLM2-135M in FP32 on two cores",
    ),
)

DEVICES: Mapping[str, Device] = MappingProxyType({device.name: device for device in _ALL})

DEVICE_OF_ARCH: Mapping[str, str] = MappingProxyType(
    {"ampere": "a100", "ada": "l40s", "hopper": "h100", "blackwell": "b200", "cpu": "cpu"}
)
"""What an architecture's times are modelled on where nobody says."""


def device_of_driver_name(name: str) -> Device | None:
    """The table's row for what the driver calls a GPU, e.g. "NVIDIA H100 80GB HBM3"; None without one."""
    return next((device for device in _ALL if device.words and all(w in name for w in device.words)), None)
