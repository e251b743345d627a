"""An export, a build or a model repository, and the result of its validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1trt.artifacts import BuildArtifact, ExportArtifact, RepositoryArtifact, read_artifact
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.layers import LayerReport
from r1trt.artifacts.parts import PartsArtifact
from r1trt.artifacts.validation import ValidationArtifact
from r1trt.graph.load import model_from_onnx_file
from r1trt.inspect.graph import graph_facts, graph_tables
from r1trt.inspect.plan import plan_table
from r1trt.inspect.summary import LAYER, Summary, Table
from r1trt.precision.plan_file import load_plan


def summary_of_artifact(path: Path) -> Summary:
    """Summarizes a directory that some r1trt command wrote.

    Raises:
        ArtifactError: It is not an artifact, or one of its documents is damaged.
    """
    match read_artifact(path):
        case ExportArtifact() as export:
            return _summary_of_export(export)
        case BuildArtifact() as build:
            return _summary_of_build(build)
        case RepositoryArtifact() as repository:
            return _summary_of_repository(repository)


def _summary_of_export(export: ExportArtifact) -> Summary:
    manifest, model = export.manifest, model_from_onnx_file(export.graph)
    facts = {
        "model": manifest.model_name,
        "capacity": manifest.capacity,
        "checkpoint": manifest.checkpoint,
        "weights in": manifest.weights.base_directory,
        "weight files": len(manifest.weights.files),
        "graph bytes": export.graph.stat().st_size,
        **_validation_facts(export.path),
        **graph_facts(model),
    }
    return Summary(kind=manifest.KIND, path=export.path, facts=facts, tables=graph_tables(model))


def _summary_of_repository(repository: RepositoryArtifact) -> Summary:
    manifest = repository.manifest
    facts: dict[str, object] = {"models": ", ".join(model.name for model in manifest.models) or "-"}
    for model in manifest.models:
        of = "" if len(manifest.models) == 1 else f" of {model.name}"
        engine = model.engine
        facts |= {
            f"kind{of}": model.kind,
            f"arch{of}": engine.arch,
            f"compute capability{of}": ", ".join(f"SM{sm}" for sm in engine.sms) or "-",
            f"precision{of}": engine.precision,
            f"backend{of}": engine.backend,
            f"capacity{of}": engine.capacity if engine.cache else "no cache",
            f"built with{of}": _versions(engine.versions),
        }
    entries = (*(entry for model in manifest.models for entry in model.files), *manifest.documents)
    rows = [(entry.file, entry.bytes) for entry in entries]
    files = Table(title="Files", header=("file", "bytes"), rows=rows)
    return Summary(kind=manifest.KIND, path=repository.path, facts=facts, tables=[files])


def _summary_of_build(build: BuildArtifact) -> Summary:
    manifest = build.manifest
    facts = {
        "model": manifest.source.model_name,
        "status": _status(build),
        "arch": manifest.arch,
        "precision": manifest.precision,
        "backend": manifest.backend,
        "capacity": manifest.capacity if manifest.cache else "no cache",
        "max batch size": manifest.max_batch_size,
        "KV cache bytes a token": manifest.kv_cache_token_bytes or "-",
        "KV cache bytes": manifest.kv_cache_bytes or "-",
        "max input length": manifest.max_input_len,
        "built": manifest.built_at,
        "built with": _versions(manifest.versions),
        **_part_facts(build),
        **_validation_facts(build.path),
    }
    tables = [_file_table(build)]
    if manifest.parts:
        tables.append(_parts_table(build))
    if build.precision_plan.is_file():
        tables.append(plan_table(load_plan(build.precision_plan)))
    if build.layers.is_file():
        tables.append(_network_table(build.layers))
    return Summary(kind=manifest.KIND, path=build.path, facts=facts, tables=tables)


def _part_facts(build: BuildArtifact) -> dict[str, object]:
    manifest, facts = build.manifest, dict[str, object]()
    if manifest.part is not None:
        part = manifest.part
        facts["part"] = f"{part.index} of {part.count}, layers {part.first_layer} to {part.last_layer}"
    if manifest.external_experts is not None:
        facts["experts in"] = manifest.external_experts.base_directory
    return facts


def _parts_table(build: BuildArtifact) -> Table:
    parts = PartsArtifact.of(build)
    rows = [
        (entry.directory, f"{entry.first_layer}-{entry.last_layer}", _state_of_part(parts, index))
        for index, entry in enumerate(parts.manifest.parts)
    ]
    return Table(title="Parts", header=("part", "layers", "state"), rows=rows)


def _state_of_part(parts: PartsArtifact, index: int) -> str:
    try:
        parts.part(index)
    except ArtifactError as error:
        return str(error.message)
    return "ok"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _status(build: BuildArtifact) -> str:
    damaged = build.damaged_files
    return f"DAMAGED: {', '.join(damaged)}" if damaged else build.manifest.status


def _file_table(build: BuildArtifact) -> Table:
    entries, damaged = build.manifest.entries, build.damaged_files
    rows = [(entry.file, entry.bytes, damaged.get(entry.file, "ok")) for entry in entries]
    return Table(title="Files", header=("file", "bytes", "state"), rows=rows)


def _network_table(path: Path) -> Table:
    """What the plan asked for and what the parsed network holds; equal rows of all layers are one."""
    rows = Counter(
        (
            LAYER.sub("model.layers.*.", layer.name),
            *(
                ", ".join(f"{part} {dtype}" for part, dtype in types.items())
                for types in (layer.asked, layer.found)
            ),
            layer.verdict,
            ", ".join(layer.executed) or "-",
        )
        for layer in LayerReport.read(path).layers
    )
    header = ("layer", "asked", "found in the network", "verdict", "executed", "count")
    return Table(
        title="Precision plan and network", header=header, rows=[(*row, n) for row, n in rows.items()]
    )


def _validation_facts(path: Path) -> dict[str, Any]:
    try:
        validation = ValidationArtifact.read(path)
    except ArtifactError:  # that of an earlier version, most often; the artifact itself is readable
        return {"validation": "of another version, or damaged; validate again"}
    if validation is None:
        return {"validation": "none yet"}
    if not validation.is_current:
        return {"validation": "of an earlier state of this directory; validate again"}
    summary = validation.document.summary
    return {
        "validation": "passed" if summary.passed else "FAILED",
        "compared": f"{summary.tested} with {summary.reference}, {summary.tokens} tokens",
        "KL divergence": _figure(summary.kl_mean, ".3g"),
        "next-token agreement": _figure(summary.agreement, ".2%"),
        "perplexity": (
            f"{_figure(summary.perplexity_tested, '.4g')} ({_figure(summary.perplexity_increase, '+.2%')})"
        ),
    }


def _figure(value: float | None, spelling: str) -> str:
    return "not a finite number" if value is None else format(value, spelling)
