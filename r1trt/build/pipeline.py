"""`r1trt build`: an export becomes a build directory, with an engine for each GPU of the architecture.

Where the engine needs a GPU or a library that is not here, everything in front of it is kept, and building
that directory again, there, finishes it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from r1trt.artifacts.store import (
    atomic_directory,
    read_manifest,
    require_free_space,
    sha256_of_file,
    write_manifest,
)
from r1trt.build.builder_api import BUILDER_APIS, backend_available
from r1trt.build.child import BuildRequest, Progress, build_in_child
from r1trt.build.config import (
    BuildConfig,
    BuildTarget,
    limits_from_config,
    newest_export,
    target_from_config,
)
from r1trt.build.executed import products_of_engine
from r1trt.build.manifest import (
    NEEDS_ENGINE,
    completed,
    engine_file,
    file_entry,
    manifest_of_build,
    manifest_of_unfinished,
    versions,
)
from r1trt.build.network_check import NetworkReport, check_network, require_obeyed
from r1trt.build.onnxruntime import CPU_ENGINE, write_cpu_engine
from r1trt.build.plugins import BuildPlugins, plugins_for_build, plugins_of_unfinished
from r1trt.build.profile import PROFILES_FILE, BuildLimits, profiles_from_graph, save_profiles
from r1trt.build.write_typed import WEIGHTS_FILE, write_typed_model
from r1trt.cuda_driver import compute_capabilities
from r1trt.errors import BuildError, ConfigError, UnavailableError
from r1trt.export.export import COMPANION_FILES
from r1trt.export.io import ExportedModel, load_export
from r1trt.passes.check_builder_forms import require_no_traps
from r1trt.passes.inline_bodies import inlined_model
from r1trt.passes.name_absent_inputs import name_absent_inputs, require_plugin_types
from r1trt.passes.pipeline import typed_model_from_plan
from r1trt.passes.remove_cache import model_without_cache
from r1trt.passes.set_capacity import model_with_capacity
from r1trt.passes.simulate import simulated_model_from_typed
from r1trt.plugin_tools.library import LIBRARY_FILE
from r1trt.precision.checks import check_plan, check_plan_fits_model
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan, save_plan
from r1trt.precision.rules import plan_from_rules

TYPED_FILE, SIMULATED_FILE, PLAN_FILE, LAYERS_FILE = (
    "typed.onnx",
    "simulated.onnx",
    "precision.yaml",
    "layers.json",
)


def build_engine(config: BuildConfig, progress: Progress | None = None) -> Path:
    """Build what `config` asks for.

    Args:
        config: Options; `model` may be a build that stopped for want of a GPU, which is then finished.
        progress: Called with (phase, done, total).

    Returns:
        The build directory.

    Raises:
        R1TrtError: Bad input, a plan that does not fit, a builder that refuses, dies or disobeys.
        UnavailableError: The engine needs what is not here; the directory holds everything else.
    """
    report = progress or (lambda phase, done, total: None)
    source = config.model or newest_export()
    if read_manifest(source)["kind"] == "engine":
        return _finish(source, config, report)
    loaded_plan = None if config.plan is None else load_plan(config.plan)
    target = target_from_config(config, None if loaded_plan is None else loaded_plan.precision)
    export = load_export(source)
    limits = limits_from_config(config, export)
    missing = None if target.backend == "onnxruntime" else backend_available(target.backend)
    plugins = plugins_for_build(config, target.backend, target.sms, required=missing is None)
    _require_finite_weights(export, report)
    output = config.output or source / f"{target.arch.name}-{target.precision}"
    _require_plan_unedited(output, config)
    plan = _plan(export, target, config, loaded_plan, report)
    model = _model_for(export.model, limits)
    with atomic_directory(output, kind="engine") as directory:
        manifest = manifest_of_build(export, target, limits, plan)
        _write_common(export, plan, directory)
        manifest["plan_sha256"] = sha256_of_file(directory / PLAN_FILE)
        if target.backend == "onnxruntime":
            _write_cpu(model, plan, directory, manifest, limits, report)
            return output
        _write_graphs(model, plan, target, limits, directory, report)
        manifest["files"] = [file_entry(directory / name) for name in (TYPED_FILE, WEIGHTS_FILE, PLAN_FILE)]
        manifest |= plugins.put_beside_engine(directory)
        if missing is None:
            manifest = _add_engines(directory, manifest, plan, plugins, report)
        write_manifest(directory, manifest)
    if missing is not None:
        raise _unavailable(output, target.backend, missing)
    return output


def _plan(
    export: ExportedModel,
    target: BuildTarget,
    config: BuildConfig,
    loaded: PrecisionPlan | None,
    progress: Progress,
) -> PrecisionPlan:
    """The plan to build by, with all its scales."""
    if loaded is None:
        loaded = plan_from_rules(export.model, target.arch.name, target.precision)
        loaded = replace(loaded, builder=versions(target.backend))
    check_plan(loaded, target.arch.name)
    check_plan_fits_model(loaded, export.model)
    if not loaded.missing_scales:
        return loaded
    from r1trt.calibrate.calibrate import CalibrationConfig, calibrated_plan

    calibration = CalibrationConfig(tokenizer=export.path, text=config.calibration)
    return calibrated_plan(loaded, export.model, export.weight_base, calibration, progress)


def _require_finite_weights(export: ExportedModel, progress: Progress) -> None:
    from r1trt.build.weight_scan import require_finite_weights

    require_finite_weights(export.model, progress)


def _model_for(model: ir.Model, limits: BuildLimits) -> ir.Model:
    if limits.capacity is None:
        return model_without_cache(model)
    return model_with_capacity(model, limits.capacity)


def _write_common(export: ExportedModel, plan: PrecisionPlan, directory: Path) -> None:
    save_plan(plan, directory / PLAN_FILE)
    for name in COMPANION_FILES:
        if (export.path / name).is_file():
            shutil.copyfile(export.path / name, directory / name)


def _write_cpu(
    model: ir.Model,
    plan: PrecisionPlan,
    directory: Path,
    manifest: dict[str, Any],
    limits: BuildLimits,
    progress: Progress,
) -> None:
    write_cpu_engine(model, plan, directory, progress)
    save_profiles(profiles_from_graph(model.graph, limits), directory / PROFILES_FILE)
    engine = file_entry(directory / CPU_ENGINE) | {"sm": None}
    manifest["files"] = [file_entry(directory / name) for name in (WEIGHTS_FILE, PLAN_FILE)]
    write_manifest(directory, completed(manifest, [engine], {}))


def _write_graphs(
    model: ir.Model,
    plan: PrecisionPlan,
    target: BuildTarget,
    limits: BuildLimits,
    directory: Path,
    progress: Progress,
) -> None:
    """Write what the builder gets, its simulation, and the profiles."""
    assert target.backend != "onnxruntime"
    progress("typing the graph", 0, 1)
    typed = typed_model_from_plan(model, plan, target.backend)
    if target.backend == "tensorrt-rtx":
        typed = inlined_model(typed)
    require_no_traps(typed, target.backend, target.sms)
    if BUILDER_APIS[target.backend].has_plugins:
        require_plugin_types(typed)
    progress("typing the graph", 1, 1)
    weights = sum(
        value.const_value.nbytes for value in typed.graph.initializers.values() if value.const_value
    )
    require_free_space(directory, weights * (1 + len(target.sms)))
    write_typed_model(typed, directory, name=TYPED_FILE, progress=progress)
    ir.save(simulated_model_from_typed(typed), directory / SIMULATED_FILE)
    save_profiles(profiles_from_graph(typed.graph, limits), directory / PROFILES_FILE)
    if BUILDER_APIS[target.backend].has_plugins and name_absent_inputs(typed):
        # Only now: the simulation gives the operators their bodies, which know all of the inputs.
        ir.save(typed, directory / TYPED_FILE)


def _add_engines(
    directory: Path, manifest: dict[str, Any], plan: PrecisionPlan, plugins: BuildPlugins, progress: Progress
) -> dict[str, Any]:
    """Build the engines of a directory that holds everything else; returns the completed manifest."""
    reports: list[NetworkReport] = []

    def compare(layers: list[dict[str, Any]]) -> None:
        reports.append(check_network(layers, plan))
        require_obeyed(reports[-1])

    engines = {int(sm): engine_file(int(sm)) for sm in manifest["sms"]}
    request = BuildRequest(
        backend=manifest["backend"],
        directory=directory,
        graph=directory / TYPED_FILE,
        engines=engines,
        plugin_libraries=[] if plugins.library is None else [directory / LIBRARY_FILE],
        embed_plugins=plugins.embed,
    )
    version = build_in_child(request, on_network=compare, progress=progress)
    entries = [file_entry(directory / name) | {"sm": sm} for sm, name in engines.items()]
    executed: dict[str, Any] = {}
    if manifest["backend"] == "tensorrt-rtx":
        found = {f"sm{sm}": products_of_engine(directory / name, plan.layers) for sm, name in engines.items()}
        executed = {"tensorrt-rtx": version, **found}
    report = replace(reports[-1], executed=executed)
    text = json.dumps(report.to_json(), indent=1)
    (directory / LAYERS_FILE).write_text(text + "\n", encoding="utf-8")
    return completed(manifest, entries, report.summary())


# What an unfinished build has decided already, save for what `_finish` compares.
_DECIDED = ("plan", "calibration", "max_batch_size", "max_input_len", "max_seq_len", "cache", "backend")


def _require_only_finishing_options(source: Path, config: BuildConfig) -> None:
    defaults = BuildConfig()
    given = [name for name in _DECIDED if getattr(config, name) != getattr(defaults, name)]
    if given:
        names = ["--no-cache" if name == "cache" else f"--{name.replace('_', '-')}" for name in given]
        raise ConfigError(
            "An unfinished build has its options already.",
            where=source,
            found=", ".join(names),
            fix="leave the options out, or build from the export",
        )


def _require_plan_unedited(output: Path, config: BuildConfig) -> None:
    """Refuse to write a new plan over one that somebody has edited."""
    plan = output / PLAN_FILE
    if not plan.is_file() or (config.plan is not None and config.plan.resolve() == plan.resolve()):
        return
    written = read_manifest(output, "engine").get("plan_sha256")
    if written is not None and written != sha256_of_file(plan):
        raise ConfigError(
            "The precision plan of the earlier build was edited, and a new build would replace it.",
            where=plan,
            fix=f"use it with --plan {plan}, or remove it",
        )


def _finish(source: Path, config: BuildConfig, progress: Progress) -> Path:
    """Finish a build that stopped in front of its engine, wherever its directory is now."""
    manifest = manifest_of_unfinished(source)
    if manifest["status"] != NEEDS_ENGINE:
        raise ConfigError(
            "This directory is a finished build.", where=source, fix="name an export to build from"
        )
    _require_only_finishing_options(source, config)
    for name in ("arch", "precision"):
        asked = getattr(config, name)
        if asked is not None and asked != manifest[name]:
            raise ConfigError(
                "The unfinished build is for something else.",
                where=source,
                found=f"--{name} {manifest[name]}",
                expected=f"--{name} {asked}",
                fix="leave the option out, or build from the export",
            )
    missing = backend_available(manifest["backend"])
    if missing is not None:
        raise _unavailable(source, manifest["backend"], missing)
    _require_unchanged(source, manifest)
    plan = load_plan(source / PLAN_FILE)
    manifest = _for_this_machine(manifest)
    plugins = plugins_of_unfinished(config, source, manifest)
    output = config.output or source
    with atomic_directory(output, kind="engine") as directory:
        for path in source.iterdir():
            _link_or_copy(path, directory / path.name)
        # The manifest is replaced, not written through the link into the unfinished build.
        (directory / "manifest.json").unlink()
        manifest |= plugins.put_beside_engine(directory)
        write_manifest(directory, _add_engines(directory, manifest, plan, plugins, progress))
    return output


def _for_this_machine(manifest: dict[str, Any]) -> dict[str, Any]:
    """TensorRT builds for the GPU that is here."""
    if manifest["backend"] != "tensorrt":
        return manifest
    here = compute_capabilities()
    fitting = [sm for sm in manifest["sms"] if sm in here]
    if not fitting:
        raise UnavailableError(
            f"The build is for --arch {manifest['arch']}, and this machine has another GPU.",
            found=", ".join(f"SM{sm}" for sm in here),
            expected=" or ".join(f"SM{sm}" for sm in manifest["sms"]),
            fix="run the command on a machine with such a GPU",
        )
    return {**manifest, "sms": fitting}


def _require_unchanged(source: Path, manifest: dict[str, Any]) -> None:
    for entry in manifest["files"]:
        path = source / entry["file"]
        if not path.is_file():
            raise BuildError("A file of the unfinished build is gone.", where=path, fix="copy it again")
        if file_entry(path) != entry:
            raise BuildError(
                "A file of the unfinished build changed.",
                where=path,
                found=f"{path.stat().st_size} bytes",
                expected=f"{entry['bytes']} bytes with SHA-256 {entry['sha256']}",
                fix="copy the directory again, or build again from the export",
            )


def _link_or_copy(source: Path, target: Path) -> None:
    if not source.is_file():
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _unavailable(output: Path, backend: str, reason: str) -> UnavailableError:
    return UnavailableError(
        "Everything but the engine is built.",
        where=output,
        found=reason,
        expected=f"a machine where {backend} can build",
        fix=f"copy the directory there and run: r1trt build {shlex.quote(str(output))}",
    )
