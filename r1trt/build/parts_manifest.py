"""The directory around a model's parts: its manifest, and the list of parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import onnx_ir as ir

from r1trt.artifacts.build import BuildArtifact, BuildDirectory, BuildManifest
from r1trt.artifacts.parts import (
    PARTS_FILE,
    CacheEntry,
    PartEntry,
    PartsArtifact,
    PartsManifest,
    decisive_files,
)
from r1trt.build.prepare import PreparedBuild
from r1trt.build.write import file_entry, now
from r1trt.graph.load import model_from_onnx_file
from r1trt.parts.plan import PlannedPart
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import save_plan
from r1trt.runtime.session import is_cache_input


def write_whole(
    directory: Path,
    prepared: PreparedBuild,
    plan: PrecisionPlan,
    parts: Sequence[PlannedPart],
    graphs: Sequence[ir.Model],
    build_id: str,
) -> None:
    """Write what lies beside the parts.

    Args:
        directory: Where the parts are.
        prepared: The build.
        plan: Of the whole model.
        parts: Its parts.
        graphs: Their exported graphs.
        build_id: What all parts have in common.
    """
    prepared.export.artifact.copy_companions_to(directory)
    built = [BuildArtifact.read(directory / part.directory) for part in parts]
    entries = tuple(map(_entry, parts, graphs, built))
    hidden = prepared.export.config.hidden_size
    PartsManifest(build=build_id, hidden_size=hidden, parts=entries).write(directory)
    first = built[0].manifest
    files = [*save_plan(plan, BuildDirectory(path=directory).precision_plan), directory / PARTS_FILE]
    whole = replace(
        first,
        source=replace(first.source, model_hash=plan.model_hash),
        engines=(),
        files=tuple(map(file_entry, files)),
        plan_sha256=file_entry(files[0]).sha256,
        plugins=None,
        plugin_libraries=(),
        external_experts=None,
        part=None,
        parts=len(parts),
    )
    with_parts(whole, built).write(directory)


def with_parts(whole: BuildManifest, parts: Sequence[BuildArtifact]) -> BuildManifest:
    """The manifest of a model in parts: sums over them, and whether all are finished."""
    manifests = [part.manifest for part in parts]
    finished = all(manifest.is_finished for manifest in manifests)
    return replace(
        whole,
        status="complete" if finished else "needs-engine",
        kv_cache_token_bytes=sum(manifest.kv_cache_token_bytes for manifest in manifests),
        precision_summary=_sums([manifest.precision_summary for manifest in manifests]),
        network_check=_sums([manifest.network_check for manifest in manifests]) if finished else {},
        built_at=now(),
    )


def update_whole(whole: BuildArtifact) -> None:
    """Write the manifest anew after parts were finished.

    Raises:
        ArtifactError: A part is missing, of another build, in another's place, or changed.
    """
    with_parts(whole.manifest, PartsArtifact.of(whole).parts()).write(whole.path)


def _sums(counts: Sequence[dict[str, int]] | Sequence[object]) -> dict[str, int]:
    found: dict[str, int] = {}
    for count in cast(Sequence[dict[str, int]], counts):
        for name, number in count.items():
            found[name] = found.get(name, 0) + number
    return found


def _entry(part: PlannedPart, graph: ir.Model, built: BuildArtifact) -> PartEntry:
    inputs, outputs = graph.graph.inputs, graph.graph.outputs
    return PartEntry(
        directory=part.directory,
        first_layer=part.first_layer,
        last_layer=part.last_layer,
        input=str(inputs[0].name),  # type: ignore[arg-type]
        output=str(outputs[0].name),  # type: ignore[arg-type]
        caches=_caches(built),
        device=part.device,
        weight_bytes=part.cost.weight_bytes,
        prefill_seconds=part.cost.prefill_seconds,
        decode_seconds=part.cost.decode_seconds,
        tensors=_tensors(graph),
        files=decisive_files(built),
    )


def _caches(built: BuildArtifact) -> tuple[CacheEntry, ...]:
    """Of the graph that is run or built, where they have their type."""
    on_cpu = built.manifest.backend == "onnxruntime"
    graph = model_from_onnx_file(built.cpu_engine if on_cpu else built.typed_graph).graph
    found = []
    for value in graph.inputs:
        if is_cache_input(str(value.name)):
            assert value.shape is not None and value.dtype is not None, "a graph's inputs have both"
            _, heads, capacity, elements = (
                int(str(size)) if isinstance(size, int) else 0 for size in value.shape
            )
            found.append(
                CacheEntry(
                    name=str(value.name),
                    heads=heads,
                    capacity=capacity,
                    elements=elements,
                    type=value.dtype.name,
                )
            )
    return tuple(found)


def _tensors(graph: ir.Model) -> dict[str, tuple[str, ...]]:
    """The checkpoint's tensors by their file."""
    found: dict[str, list[str]] = {}
    for name, value in graph.graph.initializers.items():
        if isinstance(value.const_value, ir.ExternalTensor):
            found.setdefault(Path(value.const_value.location).as_posix(), []).append(name)
    return {file: tuple(sorted(names)) for file, names in sorted(found.items())}
