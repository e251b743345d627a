"""Times by the roofline: a layer takes as long as its operations or its bytes do, whichever is more."""

from __future__ import annotations

from r1trt.estimate.gpus import Device
from r1trt.estimate.planned import PlannedModel
from r1trt.ops.cost import CallSize, Cost

OPERATIONS_OF_MAC = 2


def seconds_of_cost(cost: Cost, device: Device, count: int = 1) -> float:
    """Time of one layer at the rates that good kernels reach.

    Args:
        cost: Its work.
        device: Where it runs.
        count: Devices that share the work evenly, as if moving data between them took no time.

    Raises:
        ConfigError: The device does not compute in one of the work's types.
    """
    return max(computing_seconds(cost, device), moving_seconds(cost, device)) / count


def computing_seconds(cost: Cost, device: Device) -> float:
    """Time of a cost's operations alone.

    Raises:
        ConfigError: The device does not compute in one of the work's types.
    """
    return sum(OPERATIONS_OF_MAC * macs / device.rate(name) for name, macs in cost.macs.items())


def moving_seconds(cost: Cost, device: Device) -> float:
    """Time of a cost's bytes alone."""
    return cost.moved_bytes / device.reachable_bandwidth


def seconds_of_call(planned: PlannedModel, call: CallSize, device: Device, count: int = 1) -> float:
    """Time of one call: the sum over all layers, none of which is fused with another."""
    return sum(layers * seconds_of_cost(cost, device, count) for cost, layers in planned.work(call))
