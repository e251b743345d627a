"""A model's stages on a cluster, for as long as somebody needs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from r1trt.artifacts.build import BuildArtifact
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.connection import connected
from r1trt.cluster.lanes import Lanes
from r1trt.cluster.session import ClusterSession
from r1trt.cluster.stages import Stages
from r1trt.errors import UnavailableError, UsageError
from r1trt.serving.config import SchedulerConfig
from r1trt.serving.metrics import MetricSink
from r1trt.tokenizer.text_tokenizer import TextTokenizer


@contextmanager
def opened_stages(address: str, config: ClusterConfig, report: Callable[[str], None]) -> Iterator[Stages]:
    """Starts a model's stages on a cluster; they end with the context, or with this process.

    Args:
        address: HOST:PORT of the cluster's head, or "local".
        config: What runs, and how.
        report: Told of each stage that was started anew.

    Raises:
        ArtifactError: A part is missing, changed, of another build or in another's place.
        SessionError: A machine has another build.
        UnavailableError: No cluster is there, or it cannot run the stages.
        UsageError: The directory holds one engine, or `address` is no address.
    """
    build = BuildArtifact.read(config.directory)
    if not build.manifest.parts:
        raise UsageError(
            "A cluster runs a model in parts, a stage each.",
            where=config.directory,
            found="one engine",
            fix="build with --parts N, or leave out --cluster",
        )
    build.require_finished()
    if build.manifest.backend != "onnxruntime":
        raise UnavailableError(
            "Stages run parts for --arch cpu only, so far.",
            where=config.directory,
            found=f"--arch {build.manifest.arch}",
            fix="build the parts with --arch cpu",
        )
    with connected(address) as ray:
        stages = Stages(ray, config, report)
        try:
            yield stages
        finally:
            stages.close()


@contextmanager
def opened_session(
    address: str, config: ClusterConfig, report: Callable[[str], None]
) -> Iterator[ClusterSession]:
    """All of the stages' rows as one session; see `opened_stages`."""
    with opened_stages(address, config, report) as stages:
        yield ClusterSession(stages, 0, config.rows)


@contextmanager
def opened_lanes(
    address: str,
    config: ClusterConfig,
    tokenizer: TextTokenizer,
    scheduler: SchedulerConfig,
    metrics: MetricSink,
    report: Callable[[str], None],
) -> Iterator[tuple[Lanes, int]]:
    """As many lanes of requests as there are stages, or rows where these are fewer; see `opened_stages`.

    Args:
        address: HOST:PORT of the cluster's head.
        config: What runs, and how.
        tokenizer: The model's.
        scheduler: Limits of each lane.
        metrics: Where measurements go.
        report: Told of each stage that was started anew.

    Yields:
        The lanes, and the tokens that a row of the cache holds.
    """
    with opened_stages(address, config, report) as stages:
        lanes = Lanes(stages, tokenizer, min(len(stages.processes), config.rows), scheduler, metrics)
        try:
            yield lanes, stages.limits.capacity or 0
        finally:
            lanes.close()
