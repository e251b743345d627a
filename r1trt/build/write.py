"""Step 3 of a build, write: a directory with everything but the engines, and its manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.build import (
    BuildArtifact,
    BuildDirectory,
    BuildManifest,
    BuildSource,
    EngineEntry,
    FileEntry,
)
from r1trt.artifacts.disk import require_free_space, sha256_of_file
from r1trt.artifacts.export import ReadWeightFile
from r1trt.artifacts.profiles import save_profiles
from r1trt.build.graphs import BuildGraphs
from r1trt.build.plugins import BuildPlugins
from r1trt.build.profile import BuildLimits, profiles_from_graph
from r1trt.build.target import BuildTarget
from r1trt.build.versions import versions_of_build
from r1trt.build.write_typed import share_weights, weight_bytes, write_typed_model
from r1trt.checkpoint.content_hash import FileContent
from r1trt.estimate.kv_cache import token_bytes_of_node
from r1trt.export.io import ExportedModel
from r1trt.graph.stacks import external_experts
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.progress import Progress, ignore


def write_build(
    directory: Path,
    *,
    export: ExportedModel,
    target: BuildTarget,
    limits: BuildLimits,
    plan: PrecisionPlan,
    graphs: BuildGraphs,
    plugins: BuildPlugins | None = None,
    contents: Mapping[str, FileContent] | None = None,
    progress: Progress = ignore,
) -> BuildArtifact:
    """Write a build that lacks its engines at most.

    Args:
        directory: An existing, empty directory.
        export: What is built.
        target: What it is built for.
        limits: What the engine accepts.
        plan: Its plan.
        graphs: The graphs that the plan was written into.
        plugins: The library to put beside the engine.
        contents: What the checkpoint's files held, by name, as far as they were read before.
        progress: Called with ("weights", bytes written, in all).

    Returns:
        The build; complete for ONNX Runtime, which runs the graph itself.

    Raises:
        DiskFullError: There is no room for the weights and the engines.
        CheckpointError: A weight cannot be read, or changed since it was read before.
    """
    build = BuildDirectory(path=directory)
    export.artifact.copy_companions_to(directory)
    graph = build.cpu_engine if target.backend == "onnxruntime" else build.typed_graph
    require_free_space(directory, weight_bytes(graphs.engine) * (1 + len(target.sms)))
    _write_graphs(graphs, graph, build, progress)
    save_profiles(profiles_from_graph(graphs.engine.graph, limits), build.profiles)
    source, plan_files = _source(export, plan, contents or {}), save_plan(plan, build.precision_plan)
    manifest = _manifest(build, export, target, limits, plan, plan_files, source)
    manifest = replace(manifest, external_experts=external_experts(graphs.stacks, export.weight_base))
    if plugins is not None:
        manifest = plugins.put_beside_engine(directory, manifest)
    manifest.write(directory)
    return BuildArtifact(path=directory, manifest=manifest)


def _write_graphs(graphs: BuildGraphs, path: Path, build: BuildDirectory, progress: Progress) -> None:
    write_typed_model(graphs.engine, path.parent, name=path.name, progress=progress)
    if graphs.simulated is not None:
        share_weights(graphs.engine, graphs.simulated)
        ir.save(graphs.simulated, build.simulated_graph)


def file_entry(path: Path) -> FileEntry:
    """Name, hash and size of a file in a build directory."""
    return FileEntry(file=path.name, sha256=sha256_of_file(path), bytes=path.stat().st_size)


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _manifest(
    build: BuildDirectory,
    export: ExportedModel,
    target: BuildTarget,
    limits: BuildLimits,
    plan: PrecisionPlan,
    plan_files: list[Path],
    source: BuildSource,
) -> BuildManifest:
    on_cpu = target.backend == "onnxruntime"
    inputs = ([] if on_cpu else [build.typed_graph]) + [build.weights, *plan_files]
    engines = (EngineEntry(**vars(file_entry(build.cpu_engine)), sm=None),) if on_cpu else ()
    return BuildManifest(
        status="complete" if on_cpu else "needs-engine",
        arch=target.arch.name,
        sms=target.sms,
        backend=target.backend,
        precision=target.precision,
        capacity=limits.capacity,
        cache=limits.capacity is not None,
        max_batch_size=limits.max_batch_size,
        max_input_len=limits.max_input_len,
        last_token_logits=export.artifact.manifest.last_token_logits,
        kv_cache_token_bytes=0 if limits.capacity is None else _cache_token_bytes(export, plan),
        engines=engines,
        source=source,
        versions=versions_of_build(target.backend),
        precision_summary=_precision_summary(plan),
        files=tuple(map(file_entry, inputs)),
        built_at=now(),
        plan_sha256=sha256_of_file(build.precision_plan),
    )


def _source(export: ExportedModel, plan: PrecisionPlan, contents: Mapping[str, FileContent]) -> BuildSource:
    """With the hashes of the weights, if they still are what was read."""
    manifest = export.artifact.manifest
    for content in contents.values():
        content.require_unmodified()
    hashes = {name: content.sha256 for name, content in contents.items()}
    return BuildSource(
        model_name=manifest.model_name,
        checkpoint=manifest.checkpoint,
        export=str(export.artifact.path.resolve()),
        model_hash=plan.model_hash,
        model_sha256=sha256_of_file(export.artifact.graph),
        weights=tuple(
            ReadWeightFile(**vars(file), sha256=hashes.get(file.name)) for file in manifest.weights.files
        ),
    )


def _cache_token_bytes(export: ExportedModel, plan: PrecisionPlan) -> int:
    nodes = layer_nodes(export.model)
    return sum(token_bytes_of_node(node, plan.layers[name]) for name, node in nodes.items())


def _precision_summary(plan: PrecisionPlan) -> dict[str, int]:
    """Number of layers with weights, by the weights' type."""
    counts = Counter(layer.weight for layer in plan.layers.values() if layer.weight is not None)
    return {str(name): counts[name] for name in sorted(counts)}
