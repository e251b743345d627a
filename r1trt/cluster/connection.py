"""Ray, and the cluster that it runs: found, checked and connected to, in plain words where that fails."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from r1trt.errors import UnavailableError, UsageError

LOCAL = "local"
"""In the place of an address: a cluster of this process alone, on loopback, that ends with it."""
LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = (LOOPBACK, "localhost")
_REACHED_SECONDS = 5.0
# NOTES: Ray replaces a loopback address by the machine's outer one, even where its own servers listen on
# loopback alone, and then waits minutes for nobody to answer; but not with this, meant for desktops.
_KEEPS_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_NO_TELEMETRY = "RAY_USAGE_STATS_ENABLED"
START_HEAD = f"{_KEEPS_LOOPBACK}=0 ray start --head --node-ip-address={LOOPBACK} --port=6379"
"""Starts a cluster that listens on loopback alone; without the variable Ray listens on every interface."""
_LOCAL_STORE_BYTES, _LOCAL_STAGES = 80 << 20, 1024


def ray_module(address: str) -> Any:
    """Imports Ray, for a cluster at this address.

    Raises:
        UnavailableError: It is not installed.
    """
    os.environ.setdefault(_NO_TELEMETRY, "0")
    if address == LOCAL or address.rpartition(":")[0] in _LOOPBACK_NAMES:
        os.environ.setdefault(_KEEPS_LOOPBACK, "0")
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UnavailableError(
            "Ray is not installed.", fix="pip install 'r1trt[cluster]', then run the command again"
        ) from error


def require_cluster(address: str) -> None:
    """Asks, without joining it, whether something listens where a server is to find a cluster.

    Raises:
        UsageError: That is no address of a cluster that goes on without this process.
        UnavailableError: Ray is not installed, or nothing listens there.
    """
    if address == LOCAL:
        raise UsageError(
            "A server does not start a cluster of its own.",
            found=address,
            expected="HOST:PORT of its head",
            fix=START_HEAD,
        )
    _require_listening(address)
    ray_module(address)


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; it is left again at the end.

    Args:
        address: HOST:PORT of its head, or "local".

    Raises:
        UsageError: That is no address.
        UnavailableError: Ray is not installed, or no cluster answers there.
    """
    if address != LOCAL:
        _require_listening(address)
    ray = ray_module(address)
    try:
        ray.init(**_options(address), log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # ConnectionError, RuntimeError and others: by version and cause
        raise UnavailableError(
            "There is no Ray cluster that can be joined.",
            where=address,
            found=error,
            fix="run this on a machine that `ray start --address` has made a node of the cluster, with the"
            " same version of Ray and of Python; where the cluster wants a token, with RAY_AUTH_MODE=token",
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _options(address: str) -> dict[str, Any]:
    if address != LOCAL:
        return {"address": address}
    return {
        "address": LOCAL,  # Ray's word too for a new one, whatever else runs on this machine
        "_node_ip_address": LOOPBACK,
        "include_dashboard": False,
        "num_cpus": _LOCAL_STAGES,  # which share the cores that there are
        "object_store_memory": _LOCAL_STORE_BYTES,
    }


def _require_listening(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(
            "This is no cluster's address.",
            found=address,
            expected=f"HOST:PORT, as `ray start --head` prints it, or {LOCAL}",
        )
    try:
        # NOTES: Ray itself takes minutes to give up.
        socket.create_connection((host, int(port)), timeout=_REACHED_SECONDS).close()
    except OSError as error:
        raise UnavailableError(
            "There is no cluster at this address.",
            where=address,
            found=error,
            fix=f"start one with `{START_HEAD}`, or name the address that it printed",
        ) from error
