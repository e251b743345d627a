"""Steps 4 and 5 of a build, build and read back: the engines of a directory that holds everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1trt.artifacts.build import BuildArtifact, EngineEntry
from r1trt.artifacts.disk import replace_file
from r1trt.artifacts.manifest import json_text
from r1trt.artifacts.trusted_code import record_trusted_code
from r1trt.build.builder_api import BUILDER_APIS
from r1trt.build.child import BuildRequest, build_in_child
from r1trt.build.engine_bytes import require_narrow_engines
from r1trt.build.executed import products_of_engine, require_no_wider_products, with_executed
from r1trt.build.network_check import NetworkReport, check_network, require_obeyed
from r1trt.build.timing_cache import timing_cache_file
from r1trt.build.write import file_entry, now
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan
from r1trt.progress import Progress, ignore


def network_report_of_build(build: BuildArtifact, progress: Progress = ignore) -> NetworkReport:
    """Parse a build's graph and compare the network with the precision plan; nothing is built.

    Raises:
        BuildError: The parser refused the graph.
    """
    plan = load_plan(build.precision_plan)
    reports: list[NetworkReport] = []
    build_in_child(
        _request(build, plan, {}),
        on_network=lambda layers: reports.append(check_network(layers, plan)),
        progress=progress,
    )
    return reports[-1]


def build_engines(
    build: BuildArtifact,
    *,
    timing_cache: Path | None = None,
    allow_fake_fp8: bool = False,
    progress: Progress = ignore,
) -> BuildArtifact:
    """Build the engines that a directory lacks, after a look whether the network is what the plan asks for.

    Args:
        build: A build with everything else; its engines, layer report and manifest are written.
        timing_cache: File with the timings of earlier builds, for "tensorrt"; None takes the user's.
        allow_fake_fp8: Whether products may run in wider types than the FP8 or INT8 that the plan asks for.
        progress: Called with (phase, done, total).

    Returns:
        The completed build.

    Raises:
        BuildError: The builder refused the graph, died, was given something else than the plan asks for, or
            made something wider of it.
    """
    plan = load_plan(build.precision_plan)
    reports: list[NetworkReport] = []

    def compare(layers: list[dict[str, Any]]) -> None:
        reports.append(check_network(layers, plan))
        require_obeyed(reports[-1])

    engines = {sm: build.engine(sm) for sm in build.manifest.sms}
    request = _request(build, plan, engines, timing_cache)
    version = build_in_child(request, on_network=compare, progress=progress)
    report = with_executed(reports[-1], _executed(build, engines, plan, version))
    if not allow_fake_fp8:
        require_no_wider_products(report, plan)
        if any(layer.quantizes_weight for layer in plan.layers.values()):
            require_narrow_engines(engines, build.weights)
    return _completed(build, engines, report)


def _completed(build: BuildArtifact, engines: Mapping[int, Path], report: NetworkReport) -> BuildArtifact:
    replace_file(build.layers, json_text(report.to_json()))
    entries = (EngineEntry(**vars(file_entry(path)), sm=sm) for sm, path in engines.items())
    manifest = replace(
        build.manifest,
        status="complete",
        engines=tuple(entries),
        network_check=report.summary(),
        built_at=now(),
    )
    manifest.write(build.path)
    if manifest.embeds_plugins:
        for entry in manifest.engines:
            record_trusted_code(entry.sha256)
    return replace(build, manifest=manifest)


def _request(
    build: BuildArtifact,
    plan: PrecisionPlan,
    engines: Mapping[int, Path],
    timing_cache: Path | None = None,
) -> BuildRequest:
    manifest = build.manifest
    takes_plugins = manifest.plugins is not None and BUILDER_APIS[manifest.backend].has_plugins
    library = [build.plugin_library] if takes_plugins else []
    return BuildRequest(
        backend=manifest.backend,
        directory=build.path,
        graph=build.typed_graph,
        engines={sm: path.name for sm, path in engines.items()},
        native_layers=any(layer.implementation == "native" for layer in plan.layers.values()),
        plugin_libraries=library,
        embed_plugins=manifest.embeds_plugins,
        timing_cache=timing_cache_file(manifest.backend, manifest.sms, timing_cache) if engines else None,
        timing_cache_named=timing_cache is not None,
    )


def _executed(
    build: BuildArtifact, engines: Mapping[int, Path], plan: PrecisionPlan, version: str
) -> dict[str, Any]:
    if build.manifest.backend != "tensorrt-rtx":
        return {}
    found = {f"sm{sm}": products_of_engine(path, plan.layers) for sm, path in engines.items()}
    return {"tensorrt-rtx": version, **found}
