"""Summaries of what the pipeline reads and writes; headers and graphs only, never weights."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.store import MANIFEST_FILE, read_manifest
from r1trt.checkpoint import TensorRef, checkpoint_from_dir, read_safetensors_header
from r1trt.config import AttentionConfig, ModelConfig, MoeConfig
from r1trt.errors import ConfigError
from r1trt.graph.load import model_from_onnx_file
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan

LAYER = re.compile(r"model\.layers\.(\d+)\.")
PLAN_FILE, LAYERS_FILE = "precision.yaml", "layers.json"
CACHE = re.compile(r"(_cache(?:_out)?)\.\d+$")
PORTS = ("", "name", "type", "shape", "count")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under a header.

    Attributes:
        title: What the rows are.
        header: Column names.
        rows: One sequence of cells a row.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `r1trt inspect` shows.

    Attributes:
        kind: What was found: an artifact's kind, "checkpoint", "onnx", "safetensors" or "precision plan".
        path: Where.
        facts: Single values by name; sizes are bytes under names that end in "bytes".
        tables: What comes in rows.
    """

    kind: str
    path: Path
    facts: Mapping[str, Any]
    tables: Sequence[Table] = field(default_factory=tuple)


def summary_of_path(path: Path) -> Summary:
    """Summarizes a checkpoint, an export, a build, a repository, or a single file.

    Raises:
        R1TrtError: The path is none of these, or is damaged.
    """
    if path.is_dir():
        if not (path / MANIFEST_FILE).exists():
            return _summary_of_checkpoint(path)
        return _summary_of_artifact(path)
    summarize = _FILES.get(path.suffix)
    if summarize is None:
        raise ConfigError(
            "Nothing is known of such a file.",
            where=path,
            expected=f"a directory, or a file that ends in {', '.join(_FILES)}",
        )
    return summarize(path)


def _summary_of_artifact(path: Path) -> Summary:
    manifest = read_manifest(path)
    try:
        return _ARTIFACTS[manifest["kind"]](path, manifest)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "This manifest is not as r1trt writes it.",
            where=path / MANIFEST_FILE,
            found=f"{type(error).__name__}: {error}",
            fix="make the artifact again",
        ) from error


def _summary_of_checkpoint(path: Path) -> Summary:
    checkpoint = checkpoint_from_dir(path)
    facts = {
        **_model_facts(checkpoint.config),
        **_weight_facts(checkpoint.tensors.values()),
        "weight files": len(checkpoint.files),
        "weight files are links": checkpoint.has_links,
    }
    return Summary(
        kind="checkpoint", path=path, facts=facts, tables=[_dtype_table(checkpoint.tensors.values())]
    )


def _model_facts(config: ModelConfig) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "architecture": config.architecture,
        "layers": config.num_layers,
        "hidden size": config.hidden_size,
        "heads": _heads_text(config.layers[0].attention),
        "vocabulary": config.vocab_size,
        "rope": f"{config.rope.kind}, theta {config.rope.theta:g}",
        "tied head": config.tie_word_embeddings,
    }
    moes = [layer.mlp for layer in config.layers if isinstance(layer.mlp, MoeConfig)]
    if moes:
        moe = moes[0]
        facts["experts"] = f"{moe.num_experts}, {moe.top_k_min} to {moe.top_k} a token, {moe.scoring} router"
        facts["dense layers"] = config.num_layers - len(moes)
    return facts


def _heads_text(attention: AttentionConfig) -> str:
    heads, kv_heads, size = attention.num_heads, attention.num_kv_heads, attention.head_dim
    return f"{heads} query, {kv_heads} key/value, {size} wide"


def _weight_facts(tensors: Iterable[TensorRef]) -> dict[str, Any]:
    tensors = list(tensors)
    return {
        "tensors": len(tensors),
        "parameters": sum(_count(tensor.shape) for tensor in tensors),
        "weight bytes": sum(tensor.length for tensor in tensors),
    }


def _count(shape: Iterable[int]) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _dtype_table(tensors: Iterable[TensorRef]) -> Table:
    totals: dict[str, list[int]] = {}
    for tensor in tensors:
        row = totals.setdefault(tensor.dtype, [0, 0, 0])
        for index, amount in enumerate((1, _count(tensor.shape), tensor.length)):
            row[index] += amount
    rows = [(dtype, *row) for dtype, row in sorted(totals.items())]
    return Table(title="Weights by type", header=("type", "tensors", "parameters", "bytes"), rows=rows)


def _summary_of_safetensors(path: Path) -> Summary:
    header = read_safetensors_header(path.parent, path.name)
    facts = {"file bytes": header.file_bytes, **_weight_facts(header.tensors)}
    rows = [(t.name, t.dtype, "x".join(map(str, t.shape)) or "scalar", t.length) for t in header.tensors]
    tensors = Table(title="Tensors", header=("name", "type", "shape", "bytes"), rows=rows)
    return Summary(kind="safetensors", path=path, facts=facts, tables=[_dtype_table(header.tensors), tensors])


def _summary_of_onnx(path: Path) -> Summary:
    model = model_from_onnx_file(path)
    facts = {"file bytes": path.stat().st_size, **_graph_facts(model)}
    return Summary(kind="onnx", path=path, facts=facts, tables=_graph_tables(model))


def _graph_facts(model: ir.Model) -> dict[str, Any]:
    layers = Counter(found[1] for node in model.graph if (found := LAYER.match(node.name or "")))
    weights = [value.const_value for value in model.graph.initializers.values() if value.const_value]
    return {
        "opsets": ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in model.opset_imports.items()),
        "nodes": len(model.graph),
        "layers": len(layers),
        "nodes a layer": _range_text(layers.values()),
        "functions": ", ".join(sorted(function.name for function in model.functions.values())),
        "initializers": len(weights),
        "initializer bytes": sum(weight.nbytes for weight in weights),
        "external initializers": sum(isinstance(weight, ir.ExternalTensor) for weight in weights),
    }


def _range_text(counts: Iterable[int]) -> str:
    counts = set(counts)
    if not counts:
        return "none"
    return str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


def _graph_tables(model: ir.Model) -> list[Table]:
    operators = Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph
    )
    ports = [("input", value) for value in model.graph.inputs]
    ports += [("output", value) for value in model.graph.outputs]
    # The caches of all layers are one row.
    rows = Counter(
        (
            kind,
            CACHE.sub(r"\1.*", value.name or ""),
            value.dtype.name if value.dtype else "?",
            str(value.shape or "?"),
        )
        for kind, value in ports
    )
    return [
        Table(title="Inputs and outputs", header=PORTS, rows=[(*row, n) for row, n in rows.items()]),
        Table(title="Operators", header=("operator", "nodes"), rows=operators.most_common()),
    ]


def _summary_of_plan(path: Path) -> Summary:
    plan = load_plan(path)
    facts = {
        "arch": plan.arch,
        "precision": plan.precision,
        "layers": len(plan.layers),
        "missing scales": len(plan.missing_scales),
        **{f"calibration {name}": value for name, value in plan.calibration.items()},
    }
    return Summary(kind="precision plan", path=path, facts=facts, tables=[_plan_table(plan)])


def _plan_table(plan: PrecisionPlan) -> Table:
    """Layers of the same name in every decoder layer and with the same types are one row."""
    rows = Counter(
        (LAYER.sub("model.layers.*.", name), layer.op, layer.input, layer.weight or "", layer.output)
        for name, layer in plan.layers.items()
    )
    header = ("layer", "operator", "input", "weight", "output", "count")
    return Table(title="Precision", header=header, rows=[(*row, count) for row, count in rows.items()])


def _summary_of_export(path: Path, manifest: Mapping[str, Any]) -> Summary:
    model = model_from_onnx_file(path / "model.onnx")
    weights = manifest["weights"]
    facts = {
        "model": manifest["model_name"],
        "capacity": manifest["capacity"],
        "checkpoint": manifest["checkpoint"],
        "weights in": weights["base_directory"],
        "weight files": len(weights["files"]),
        "graph bytes": (path / "model.onnx").stat().st_size,
        **_validation_facts(manifest.get("validation")),
        **_graph_facts(model),
    }
    return Summary(kind="export", path=path, facts=facts, tables=_graph_tables(model))


def _summary_of_repository(path: Path, manifest: Mapping[str, Any]) -> Summary:
    rows = [(entry["file"], entry["bytes"]) for entry in manifest["files"]]
    files = Table(title="Files", header=("file", "bytes"), rows=rows)
    facts = {"model": manifest["model_name"], **manifest["engine"]}
    return Summary(kind="triton", path=path, facts=facts, tables=[files])


def _summary_of_engine(path: Path, manifest: Mapping[str, Any]) -> Summary:
    facts = {
        "model": manifest["source"]["model_name"],
        "status": manifest["status"],
        "arch": manifest["arch"],
        "precision": manifest["precision"],
        "backend": manifest["backend"],
        "capacity": manifest["capacity"] if manifest["cache"] else "no cache",
        "max batch size": manifest["max_batch_size"],
        "max input length": manifest["max_input_len"],
        "built": manifest["built_at"],
        "built with": ", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        **_validation_facts(manifest.get("validation")),
    }
    entries = [*manifest["engines"], *manifest["files"]]
    rows = [(entry["file"], entry["bytes"], _file_state(path / entry["file"], entry)) for entry in entries]
    tables = [Table(title="Files", header=("file", "bytes", "state"), rows=rows)]
    if (path / PLAN_FILE).is_file():
        tables.append(_plan_table(load_plan(path / PLAN_FILE)))
    if (path / LAYERS_FILE).is_file():
        tables.append(_network_table(path / LAYERS_FILE))
    return Summary(kind="engine", path=path, facts=facts, tables=tables)


def _network_table(path: Path) -> Table:
    """What the plan asked for and what the parsed network holds; equal rows of all layers are one."""
    rows = Counter(
        (
            LAYER.sub("model.layers.*.", layer["name"]),
            *(
                ", ".join(f"{part} {dtype}" for part, dtype in layer[key].items())
                for key in ("asked", "found")
            ),
            layer["verdict"],
        )
        for layer in json.loads(path.read_text())["layers"]
    )
    header = ("layer", "asked", "found in the network", "verdict", "count")
    return Table(
        title="Precision plan and network", header=header, rows=[(*row, n) for row, n in rows.items()]
    )


def _file_state(path: Path, entry: Mapping[str, Any]) -> str:
    """Compares sizes only: hashing an engine takes as long as reading it."""
    if not path.is_file():
        return "missing"
    return "ok" if path.stat().st_size == entry["bytes"] else f"{path.stat().st_size} bytes: damaged"


def _validation_facts(validation: Mapping[str, Any] | None) -> dict[str, Any]:
    if validation is None:
        return {"validation": "none yet"}
    return {
        "validation": "passed" if validation["passed"] is True else "FAILED",
        "compared": f"{validation['tested']} with {validation['reference']}, {validation['tokens']} tokens",
        "KL divergence": f"{validation['kl_mean']:.3g}",
        "next-token agreement": f"{validation['agreement']:.2%}",
        "perplexity": f"{validation['perplexity_tested']:.4g} ({validation['perplexity_increase']:+.2%})",
    }


_ARTIFACTS: Mapping[str, Callable[[Path, Mapping[str, Any]], Summary]] = {
    "export": _summary_of_export,
    "engine": _summary_of_engine,
    "triton": _summary_of_repository,
}
_FILES: Mapping[str, Callable[[Path], Summary]] = {
    ".safetensors": _summary_of_safetensors,
    ".onnx": _summary_of_onnx,
    ".yaml": _summary_of_plan,
}
