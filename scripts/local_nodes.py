"""Nodes of a Ray cluster as processes of this machine, on loopback."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

from r1trt.cluster.connection import LOOPBACK, ray_module

STORE_BYTES = 80 << 20


@contextmanager
def local_nodes(count: int) -> Iterator[str]:
    """A cluster of as many nodes, with a CPU each; yields its address, and ends it."""
    ray_module(f"{LOOPBACK}:0")
    # Untyped, and only there with the extra [cluster].
    cluster_utils = importlib.import_module("ray.cluster_utils")
    options = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "node_ip_address": LOOPBACK}
    cluster = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**options, "include_dashboard": False}
    )
    try:
        for _ in range(count - 1):
            cluster.add_node(**options)
        yield str(cluster.address)
    finally:
        cluster.shutdown()
