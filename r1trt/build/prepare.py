"""What a build settles before anything is read for hours: what it is for, its plan, its plugins, its room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from r1trt.artifacts.build import BuildDirectory, BuildManifest
from r1trt.artifacts.disk import sha256_of_file
from r1trt.build.builder_api import backend_available
from r1trt.build.config import BuildConfig
from r1trt.build.plan import plan_for_target
from r1trt.build.plugins import BuildPlugins, plugins_for_build, require_plugin_sizes
from r1trt.build.profile import BuildLimits
from r1trt.build.target import BuildTarget, limits_from_config, target_from_config
from r1trt.errors import ConfigError
from r1trt.estimate.source import SizedModel, sized_model_from_export
from r1trt.export.io import ExportedModel, load_export
from r1trt.precision.implementations import plugin_layers
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan


@dataclass(frozen=True, kw_only=True)
class PreparedBuild:
    """A build that can begin.

    Attributes:
        export: What is built.
        sized: Its sizes.
        target: What it is built for.
        limits: What the engine accepts.
        plan: Its plan; scales may be missing.
        plugins: The plugin library.
        missing: Why the builder cannot build here; None where it can.
        output: The build directory.
    """

    export: ExportedModel
    sized: SizedModel
    target: BuildTarget
    limits: BuildLimits
    plan: PrecisionPlan
    plugins: BuildPlugins
    missing: str | None
    output: Path

    @property
    def engines(self) -> int:
        """Engines that are made here."""
        return 0 if self.missing else len(self.target.sms)

    @property
    def compile_for(self) -> str | None:
        """The `--arch` whose plugin library the build needs and lacks; None where it lacks none."""
        lacks = bool(plugin_layers(self.plan)) and self.plugins.library is None
        return self.target.arch.name if lacks else None


def prepared_build(source: Path, config: BuildConfig) -> PreparedBuild:
    """Settles a build of an export.

    Raises:
        R1TrtError: Bad input, options that contradict each other, or a plan that does not fit.
    """
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
    parts = "-parts" if config.is_split else ""
    return PreparedBuild(
        export=export,
        sized=sized_model_from_export(export.artifact),
        target=target,
        limits=limits,
        plan=plan,
        plugins=plugins,
        missing=missing,
        output=config.output or source / f"{target.arch.name}-{target.precision}{parts}",
    )


def require_plan_unedited(output: BuildDirectory, config: BuildConfig) -> None:
    """Refuse to write a new plan over one that somebody has edited.

    Raises:
        ConfigError: The plan in the output is not the one that the build there wrote.
    """
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
