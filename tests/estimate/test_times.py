"""The roofline by hand."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from r1trt.errors import ConfigError
from r1trt.estimate.gpus import DEVICES, GB, Device, device_of_driver_name
from r1trt.estimate.placement import Use, placement
from r1trt.estimate.planned import planned_model
from r1trt.estimate.source import sized_model, sized_model_from_config
from r1trt.estimate.times import seconds_of_call, seconds_of_cost
from r1trt.ops.cost import CallSize, Cost

DEVICE = Device(
    name="d",
    title="a device",
    arch="ada",
    memory=10 * GB,
    bandwidth=1e12,
    operations=MappingProxyType({"fp32": 1e12, "bf16": 1e14}),
    reached_bandwidth=0.5,
    reached_operations=0.25,
    source="made up",
)


def cost(macs: int, size: int) -> Cost:
    return Cost(macs={"bf16": macs}, read_bytes={"bf16": size // 2}, written_bytes={"fp32": size - size // 2})


def test_operations_or_bytes_whichever_take_longer() -> None:
    # 2 operations a multiply-add at 25 TFLOP/s; bytes at 500 GB/s.
    assert seconds_of_cost(cost(25 * 10**12, 10), DEVICE) == pytest.approx(2.0)
    assert seconds_of_cost(cost(10, 10**12), DEVICE) == pytest.approx(2.0)
    assert seconds_of_cost(cost(25 * 10**12, 10**12), DEVICE, count=4) == pytest.approx(0.5)


def test_types_add_up() -> None:
    mixed = Cost(macs={"fp32": 10**11, "bf16": 10**13}, read_bytes={}, written_bytes={})
    assert seconds_of_cost(mixed, DEVICE) == pytest.approx(2e11 / 0.25e12 + 2e13 / 0.25e14)


def test_a_type_that_the_device_lacks_is_refused() -> None:
    fp8 = Cost(macs={"fp8_e4m3": 1}, read_bytes={}, written_bytes={})
    with pytest.raises(ConfigError, match="d does not compute in fp8_e4m3"):
        seconds_of_cost(fp8, DEVICE)


def test_decode_of_a_large_model_is_its_bytes() -> None:
    planned = planned_model(sized_model("r1-70b"), "hopper", "bf16", 4096)
    seconds = seconds_of_call(planned, CallSize(batch=1, tokens=1, past=4095), DEVICES["h100"])
    embedding = 128256 * 8192 * 2  # of which a token reads one row
    read = planned.bytes - embedding + 4096 * planned.kv_cache.token_bytes
    assert seconds == pytest.approx(read / (0.9 * 3.35e12), rel=0.01)


def test_prefill_of_a_large_model_is_its_operations() -> None:
    planned = planned_model(sized_model("r1-70b"), "hopper", "bf16", 4096)
    tokens = 2048
    seconds = seconds_of_call(planned, CallSize(batch=1, tokens=tokens), DEVICES["h100"])
    products = 2 * tokens * (70.55e9 - 128256 * 8192)
    attention = 80 * 2 * 64 * 256 * tokens * (tokens + 1) / 2
    floor = (products + attention) / (0.8 * 989e12)
    # Norms, rotations and sums come on top, as bytes.
    assert floor < seconds < 1.06 * floor


def test_the_measured_cpu_is_met() -> None:
    """Decode at a short past and prefill of SmolLM2-135M, as they were measured on two cores."""
    planned = planned_model(sized_model("smollm2-135m"), "cpu", "fp32", 2048)
    decode = seconds_of_call(planned, CallSize(batch=1, tokens=1, past=50), DEVICES["cpu"])
    prefill = seconds_of_call(planned, CallSize(batch=1, tokens=512), DEVICES["cpu"])
    assert 1 / decode == pytest.approx(38, rel=0.15)
    assert 512 / prefill == pytest.approx(600, rel=0.15)


def test_as_many_devices_as_hold_it() -> None:
    planned = planned_model(sized_model("r1-70b"), "hopper", "bf16", 8192)
    use = Use(batch=8, max_seq_len=8192, max_input_len=512)
    found = placement(planned, DEVICES["h100"], use)
    assert found.kv_bytes == 8 * 8192 * 2 * 80 * 8 * 128 * 2
    # 142.5 GB of engine and 21.5 GB of cache, with 79 GB of each H100 to be used.
    assert found.count == 3
    alone = seconds_of_call(planned, use.decode, DEVICES["h100"])
    assert found.decode_seconds == pytest.approx(alone / 3)
    assert found.needed_bytes == found.engine_bytes + found.kv_bytes + found.activation_bytes


@pytest.mark.parametrize(("batch", "length", "call"), [(0, 8, 8), (1, 8, 9), (1, 8, 0)])
def test_uses_that_contradict_themselves_are_refused(batch: int, length: int, call: int) -> None:
    with pytest.raises(ConfigError):
        Use(batch=batch, max_seq_len=length, max_input_len=call)


def test_devices_are_found_by_the_drivers_name() -> None:
    found = device_of_driver_name("NVIDIA GeForce RTX 4090")
    assert found is not None and found.name == "rtx4090"
    assert device_of_driver_name("Quadro") is None
    assert device_of_driver_name("cpu") is None


def test_every_device_has_its_source() -> None:
    for name, device in DEVICES.items():
        assert device.name == name and device.source and device.bandwidth > 0
        assert (device.memory is None) == (name == "cpu")


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="There is no such model") as error:
        sized_model(str(tmp_path / "r1-60b"))
    assert "r1-70b" in error.value.details["expected"]
    with pytest.raises(ConfigError, match="not supported"):
        sized_model_from_config("odd", {"architectures": ["Odd"]}, where=tmp_path)
