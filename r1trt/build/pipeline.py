"""`r1trt build`: an export becomes a build directory, with an engine for each GPU of the architecture.

Where the engine needs a GPU or a library that is not here, everything in front of it is kept, and building
that directory again, there, finishes it.
"""

from __future__ import annotations

from pathlib import Path

from r1trt.artifacts import BuildArtifact, read_artifact
from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.build import BuildDirectory, BuildManifest
from r1trt.build.compensation import compensated_weights
from r1trt.build.config import BuildConfig, newest_export
from r1trt.build.experts import takes_external_experts
from r1trt.build.finish import build_engines_by_config, require_built
from r1trt.build.finish_parts import finish_any_build
from r1trt.build.graphs import graphs_from_plan
from r1trt.build.known_weights import read_known_weights
from r1trt.build.parts import build_parts, planned_build
from r1trt.build.plan import with_scales
from r1trt.build.prepare import PreparedBuild, prepared_build, require_plan_unedited
from r1trt.build.write import write_build
from r1trt.estimate.planned import planned_model
from r1trt.estimate.refusal import require_room
from r1trt.estimate.steps import Step, build_step
from r1trt.parts.plan import PlannedPart
from r1trt.passes.dump import GraphDump
from r1trt.progress import Progress, ignore
from r1trt.text import size_text


def build_engine(config: BuildConfig, progress: Progress = ignore) -> Path:
    """Build what `config` asks for.

    Args:
        config: Options; `model` may be a build that stopped for want of a GPU, which is then finished.
        progress: Called with (phase, done, total).

    Returns:
        The build directory.

    Raises:
        R1TrtError: Bad input, a plan that does not fit, a builder that refuses, dies or disobeys.
        DiskFullError: There is not enough room for the result.
        UnavailableError: The engine needs what is not here; the directory holds everything else. Or this
            machine has too little memory, and nothing was written.
    """
    source = config.model or newest_export()
    artifact = read_artifact(source)
    if isinstance(artifact, BuildArtifact):
        return finish_any_build(artifact, config, progress)
    prepared = prepared_build(source, config)
    if config.is_split:
        return build_parts(prepared, planned_build(prepared, config), config, progress)
    return _build_export(prepared, config, progress)


def parts_of_build(config: BuildConfig) -> tuple[PlannedPart, ...]:
    """The parts that `build_engine` would make; nothing is read but headers, and nothing is written.

    Raises:
        R1TrtError: Bad input, or a model that cannot be cut so.
    """
    return planned_build(prepared_build(config.model or newest_export(), config), config)


def _build_export(prepared: PreparedBuild, config: BuildConfig, progress: Progress) -> Path:
    export, output = prepared.export, prepared.output
    step, external = _step(prepared, config)
    require_room(step, output)
    progress(f"estimated: {size_text(step.memory)} of memory, {size_text(step.disk)} of disk", 1, 1)
    dump = None if config.dump_passes is None else GraphDump(config.dump_passes)
    contents = read_known_weights(export, output, progress)
    require_plan_unedited(BuildDirectory(path=output), config)

    plan = with_scales(prepared.plan, export, calibration=config.calibration_options, progress=progress)
    with compensated_weights(plan, export, config, progress) as (plan, weights):
        progress("typing the graph", 0, 1)
        graphs = graphs_from_plan(
            export.model,
            plan,
            prepared.target,
            prepared.limits,
            weights=weights,
            external_experts=external,
            after_pass=dump,
        )
        progress("typing the graph", 1, 1)
        with atomic_directory(output, kind=BuildManifest.KIND) as directory:
            build = write_build(
                directory,
                export=export,
                target=prepared.target,
                limits=prepared.limits,
                plan=plan,
                graphs=graphs,
                plugins=prepared.plugins,
                contents=contents,
                progress=progress,
            )
            if not build.manifest.is_finished and prepared.missing is None:
                build_engines_by_config(build, config, progress)
    require_built(prepared)
    return output


def _step(prepared: PreparedBuild, config: BuildConfig) -> tuple[Step, bool]:
    """What the build takes of this machine, and whether experts are inputs; nothing is read for it."""
    target, capacity = prepared.target, prepared.export.artifact.manifest.capacity
    planned = planned_model(prepared.sized, target.arch.name, target.precision, capacity)
    external = takes_external_experts(config, target.backend, [planned.bytes], planned.expert_bytes)
    step = build_step(
        prepared.sized,
        planned,
        target.backend,
        prepared.engines,
        calibrated=config.plan is not None,
        external_experts=external,
    )
    return step, external
