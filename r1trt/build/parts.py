"""A model in parts: each part a build of its own, one after another, and the directory around them.

Parts are made in a hidden directory beside the result, `.NAME.parts`, which a build that was killed leaves
behind: the next one of the same inputs goes on with the part that is not there. The result itself is written
whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx_ir as ir

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.build import BuildArtifact, BuildDirectory, BuildManifest, PartOf
from r1trt.artifacts.disk import link_or_copy_file
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.lock import locked_for_writing
from r1trt.build.compensation import compensated_weights
from r1trt.build.config import BuildConfig
from r1trt.build.experts import takes_external_experts
from r1trt.build.finish import build_engines_by_config, require_built
from r1trt.build.graphs import graphs_from_plan
from r1trt.build.known_weights import read_known_weights
from r1trt.build.parts_manifest import write_whole
from r1trt.build.plan import with_scales
from r1trt.build.prepare import PreparedBuild, require_plan_unedited
from r1trt.build.write import write_build
from r1trt.checkpoint.content_hash import FileContent
from r1trt.estimate.gpus import DEVICE_OF_ARCH, DEVICES
from r1trt.estimate.placement import Use
from r1trt.estimate.planned import planned_model, planned_model_from_plan
from r1trt.estimate.refusal import require_room
from r1trt.estimate.steps import build_step
from r1trt.graph.interface import HEAD
from r1trt.ops.embedding import EMBEDDING
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.parts.cut import part_graphs
from r1trt.parts.plan import PlannedPart, planned_parts
from r1trt.precision.checks import graph_hash, layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import yaml_from_plan
from r1trt.progress import Progress, ignore
from r1trt.text import size_text

Weights = Mapping[str, ir.TensorProtocol]


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What all parts are made of.

    Attributes:
        prepared: The build.
        plan: Of the whole model, with all scales.
        weights: Weights that were quantized already, by name.
        contents: What the checkpoint's files held.
        build_id: What all parts have in common, in hex.
        external_experts: Whether expert stacks are inputs of the parts.
    """

    prepared: PreparedBuild
    plan: PrecisionPlan
    weights: Weights
    contents: Mapping[str, FileContent]
    build_id: str
    external_experts: bool


def planned_build(prepared: PreparedBuild, config: BuildConfig) -> tuple[PlannedPart, ...]:
    """Which layers become a part.

    Raises:
        UsageError: The model cannot be cut so.
    """
    limits = prepared.limits
    capacity = limits.capacity or limits.max_input_len
    planned = planned_model_from_plan(
        prepared.sized,
        prepared.plan,
        limits.capacity,
        last_token_logits=prepared.export.artifact.manifest.last_token_logits,
    )
    use = Use(batch=1, max_seq_len=capacity, max_input_len=min(limits.max_input_len, capacity))
    device = DEVICES[DEVICE_OF_ARCH[prepared.target.arch.name]]
    return planned_parts(planned, device, use, count=config.parts, max_bytes=config.max_part_bytes)


def build_parts(
    prepared: PreparedBuild, parts: Sequence[PlannedPart], config: BuildConfig, progress: Progress
) -> Path:
    """Build a model's parts, one after another, and the directory around them.

    Args:
        prepared: The build.
        parts: Which layers become a part.
        config: Its options.
        progress: Called with (phase, done, total).

    Returns:
        The build directory.

    Raises:
        R1TrtError: What `build_engine` raises.
    """
    export, output = prepared.export, prepared.output
    external = _external_experts(prepared, parts, config)
    _require_room(prepared, parts, config, external, progress)
    contents = read_known_weights(export, output, progress)
    require_plan_unedited(BuildDirectory(path=output), config)
    plan = with_scales(prepared.plan, export, calibration=config.calibration_options, progress=progress)
    with (
        compensated_weights(plan, export, config, progress) as (plan, weights),
        _workplace(output) as work,
    ):
        build = _Build(
            prepared=prepared,
            plan=plan,
            weights=weights,
            contents=contents,
            build_id=_build_id(prepared, plan, parts, contents, config, external_experts=external),
            external_experts=external,
        )
        graphs = part_graphs(export.model, [part.last_layer for part in parts])
        for part, graph in zip(parts, graphs, strict=True):
            place = _place(part, len(parts), build.build_id)
            _build_part(build, place, graph, work / part.directory, config, progress)
        with atomic_directory(output, kind=BuildManifest.KIND) as directory:
            for part in parts:
                _link_tree(work / part.directory, directory / part.directory)
            write_whole(directory, prepared, plan, parts, graphs, build.build_id)
    require_built(prepared)
    return output


@contextmanager
def _workplace(output: Path) -> Iterator[Path]:
    """Where parts are made, for one process at a time; gone behind a block that ends well."""
    work = output.with_name(f".{output.name}.parts")
    output.parent.mkdir(parents=True, exist_ok=True)
    with locked_for_writing(work):
        work.mkdir(exist_ok=True)
        yield work
        shutil.rmtree(work)


def _require_room(
    prepared: PreparedBuild,
    parts: Sequence[PlannedPart],
    config: BuildConfig,
    external_experts: bool,
    progress: Progress,
) -> None:
    weights, experts = _weights_and_experts(parts)
    target, capacity = prepared.target, prepared.export.artifact.manifest.capacity
    step = build_step(
        prepared.sized,
        planned_model(prepared.sized, target.arch.name, target.precision, capacity),
        target.backend,
        prepared.engines,
        calibrated=config.plan is not None,
        part_bytes=[
            size - inputs if external_experts else size for size, inputs in zip(weights, experts, strict=True)
        ],
    )
    require_room(step, prepared.output)
    progress(f"estimated: {size_text(step.memory)} of memory, {size_text(step.disk)} of disk", 1, 1)


def _external_experts(prepared: PreparedBuild, parts: Sequence[PlannedPart], config: BuildConfig) -> bool:
    sizes, experts = _weights_and_experts(parts)
    return takes_external_experts(config, prepared.target.backend, sizes, sum(experts))


def _weights_and_experts(parts: Sequence[PlannedPart]) -> tuple[list[int], list[int]]:
    """Bytes of each part's weights, and of the routed experts among them."""
    return [part.cost.weight_bytes for part in parts], [part.cost.expert_bytes for part in parts]


def _build_id(
    prepared: PreparedBuild,
    plan: PrecisionPlan,
    parts: Sequence[PlannedPart],
    contents: Mapping[str, FileContent],
    config: BuildConfig,
    *,
    external_experts: bool,
) -> str:
    """What decides the parts: model and weights, plan, target, options, cuts, and which inputs there are."""
    manifest = prepared.export.artifact.manifest
    inputs = {
        "model": [plan.model_hash, manifest.capacity, manifest.last_token_logits],
        "weights": [(file.name, file.bytes, file.header_sha256) for file in manifest.weights.files],
        "plan": yaml_from_plan(plan),
        "target": [prepared.target.arch.name, prepared.target.backend, prepared.target.sms],
        "limits": asdict(prepared.limits),
        "plugins": None if prepared.plugins.library is None else prepared.plugins.library.sha256,
        "contents": sorted((name, content.sha256) for name, content in contents.items()),
        "options": [config.allow_fake_fp8, config.embed_plugins],
        "cuts": [part.last_layer for part in parts],
        "external_experts": external_experts,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _build_part(
    build: _Build, place: PartOf, graph: ir.Model, directory: Path, config: BuildConfig, progress: Progress
) -> None:
    prepared, phase = build.prepared, f"building part {place.index}"
    if _is_built(directory, place, finished=prepared.missing is None):
        progress(f"part {place.index} is built already", 1, 1)
        return
    shutil.rmtree(directory, ignore_errors=True)
    progress(phase, 0, 1)
    weights = _weights_of_part(build.weights, graph, build.plan)
    with atomic_directory(directory, kind=BuildManifest.KIND) as made:
        artifact = write_part(
            made,
            graph,
            prepared,
            build.plan,
            external_experts=build.external_experts,
            weights=weights,
            contents=build.contents,
            progress=progress,
        )
        artifact = replace(artifact, manifest=replace(artifact.manifest, part=place))
        artifact.manifest.write(made)
        if not artifact.manifest.is_finished and prepared.missing is None:
            build_engines_by_config(artifact, config, progress)
    progress(phase, 1, 1)


def write_part(
    directory: Path,
    graph: ir.Model,
    prepared: PreparedBuild,
    plan: PrecisionPlan,
    *,
    external_experts: bool,
    weights: Weights | None = None,
    contents: Mapping[str, FileContent] | None = None,
    progress: Progress = ignore,
) -> BuildArtifact:
    """Write one part without its engines: graphs, the plan of its layers, profiles, and what is constant.

    Args:
        directory: An existing, empty directory.
        graph: The part's exported graph.
        prepared: The build of the whole model.
        plan: Of the whole model, with all scales.
        external_experts: Whether expert stacks are inputs.
        weights: The part's weights that were quantized already, by name.
        contents: What the checkpoint's files held, as far as they were read before.
        progress: Called with (phase, done, total).

    Raises:
        R1TrtError: What `write_build` and `graphs_from_plan` raise.
    """
    own = replace(
        plan,
        model_hash=graph_hash(graph),
        layers={name: plan.layers[name] for name in layer_nodes(graph)},
    )
    graphs = graphs_from_plan(
        graph, own, prepared.target, prepared.limits, weights=weights, external_experts=external_experts
    )
    return write_build(
        directory,
        export=replace(prepared.export, model=graph),
        target=prepared.target,
        limits=prepared.limits,
        plan=own,
        graphs=graphs,
        plugins=prepared.plugins,
        contents=contents,
        progress=progress,
    )


def _place(part: PlannedPart, count: int, build_id: str) -> PartOf:
    return PartOf(
        build=build_id,
        index=part.index,
        count=count,
        first_layer=part.first_layer,
        last_layer=part.last_layer,
    )


def _is_built(directory: Path, place: PartOf, *, finished: bool) -> bool:
    """Whether an earlier build of the same inputs got as far as this part."""
    try:
        artifact = BuildArtifact.read(directory)
    except ArtifactError:
        return False
    manifest = artifact.manifest
    return manifest.part == place and manifest.is_finished >= finished and not artifact.damaged_files


def _weights_of_part(weights: Weights, graph: ir.Model, whole: PrecisionPlan) -> Weights:
    """Those that were quantized for layers of a part.

    A tied head's are the embedding's too where both have one form.
    """
    names = {
        str(value.name)
        for key, node in layer_nodes(graph).items()
        if node.op_type != EMBEDDING.name or _form(whole.layers[key]) == _form(whole.layers[HEAD])
        for value in node.inputs
        if value is not None and value.const_value is not None
    }
    return {
        weight: tensor for weight, tensor in weights.items() if any(weight.startswith(name) for name in names)
    }


def _form(layer: LayerPrecision) -> tuple[str | None, int | None]:
    """Type and blocks of a layer's weight."""
    return layer.weight, layer.block_size


def _link_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy_file(path, copy)
