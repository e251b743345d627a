"""`r1trt build`: an export becomes a build directory, with an engine for each GPU of the architecture.

Where the engine needs a GPU or a library that is not here, everything in front of it is kept, and building
that directory again, there, finishes it.
"""

from __future__ import annotations

from pathlib import Path

from r1trt.artifacts import BuildArtifact, read_artifact
from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.build import BuildDirectory, BuildManifest
from r1trt.artifacts.disk import sha256_of_file
from r1trt.build.builder_api import backend_available
from r1trt.build.compensation import compensated_weights
from r1trt.build.config import BuildConfig, newest_export
from r1trt.build.experts import takes_external_experts
from r1trt.build.finish import build_engines_by_config, builder_unavailable, finish_build
from r1trt.build.graphs import graphs_from_plan
from r1trt.build.known_weights import read_known_weights
from r1trt.build.plan import plan_for_target, with_scales
from r1trt.build.plugins import plugins_for_build, require_plugin_sizes
from r1trt.build.target import BuildTarget, limits_from_config, target_from_config
from r1trt.build.write import write_build
from r1trt.errors import ConfigError
from r1trt.estimate.planned import PlannedModel, planned_model
from r1trt.estimate.refusal import require_room
from r1trt.estimate.source import sized_model_from_export
from r1trt.estimate.steps import build_step
from r1trt.export.io import ExportedModel, load_export
from r1trt.passes.dump import GraphDump
from r1trt.precision.implementations import plugin_layers
from r1trt.precision.plan_file import load_plan
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
        return finish_build(artifact, config, progress)
    return _build_export(source, config, progress)


def _build_export(source: Path, config: BuildConfig, progress: Progress) -> Path:
    given_plan = None if config.plan is None else load_plan(config.plan)
    target = target_from_config(config, None if given_plan is None else given_plan.precision)
    export = load_export(source)
    limits = limits_from_config(config, export)
    plan = plan_for_target(export, target, plan=given_plan, requantize=config.requantize)
    missing = backend_available(target.backend)
    in_plugins = plugin_layers(plan)
    require_plugin_sizes(export.model, in_plugins)
    plugins = plugins_for_build(
        config, target.backend, target.sms, needed=bool(in_plugins), required=missing is None
    )
    output = config.output or source / f"{target.arch.name}-{target.precision}"
    planned = _planned(export, target)
    external = takes_external_experts(config, planned, target.backend)
    step = build_step(
        sized_model_from_export(export.artifact),
        planned,
        target.backend,
        len(target.sms) if missing is None else 0,
        calibrated=given_plan is not None,
        external_experts=external,
    )
    require_room(step, output)
    progress(f"estimated: {size_text(step.memory)} of memory, {size_text(step.disk)} of disk", 1, 1)
    dump = None if config.dump_passes is None else GraphDump(config.dump_passes)
    contents = read_known_weights(export, output, progress)
    _require_plan_unedited(BuildDirectory(path=output), config)

    plan = with_scales(plan, export, calibration=config.calibration_options, progress=progress)
    with compensated_weights(plan, export, config, progress) as (plan, weights):
        progress("typing the graph", 0, 1)
        graphs = graphs_from_plan(
            export.model,
            plan,
            target,
            limits,
            weights=weights,
            external_experts=external,
            after_pass=dump,
        )
        progress("typing the graph", 1, 1)
        with atomic_directory(output, kind=BuildManifest.KIND) as directory:
            build = write_build(
                directory,
                export=export,
                target=target,
                limits=limits,
                plan=plan,
                graphs=graphs,
                plugins=plugins,
                contents=contents,
                progress=progress,
            )
            if not build.manifest.is_finished and missing is None:
                build_engines_by_config(build, config, progress)
    if missing is not None:
        lacks_library = bool(in_plugins) and plugins.library is None
        compile_for = target.arch.name if lacks_library else None
        raise builder_unavailable(output, target.backend, missing, compile_for, plugins.library is not None)
    return output


def _planned(export: ExportedModel, target: BuildTarget) -> PlannedModel:
    """The model in the types that the rules give it, for what the build takes of this machine."""
    model = sized_model_from_export(export.artifact)
    return planned_model(model, target.arch.name, target.precision, export.artifact.manifest.capacity)


def _require_plan_unedited(output: BuildDirectory, config: BuildConfig) -> None:
    """Refuse to write a new plan over one that somebody has edited."""
    plan = output.precision_plan
    if not plan.is_file() or (config.plan is not None and config.plan.resolve() == plan.resolve()):
        return
    written = BuildManifest.read(output.path).plan_sha256
    if written is not None and written != sha256_of_file(plan):
        raise ConfigError(
            "The precision plan of the earlier build was edited, and a new build would replace it.",
            where=plan,
            fix=f"use it with --plan {plan}, or remove it",
        )
