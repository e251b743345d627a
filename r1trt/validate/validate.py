"""`r1trt validate`: every stage of an artifact against the checkpoint, on real text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.util import find_spec

from r1trt.artifacts import BuildArtifact
from r1trt.data import HELDOUT
from r1trt.errors import UnavailableError, ValidationError
from r1trt.estimate.parameters import parameters_of_config
from r1trt.estimate.refusal import require_memory
from r1trt.estimate.steps import validation_step
from r1trt.evaluate.figures import PairFigures
from r1trt.evaluate.models import Model
from r1trt.evaluate.verdict import Comparison
from r1trt.evaluate.windows import Window, windows_from_ids
from r1trt.precision.plan import Thresholds
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import THRESHOLDS
from r1trt.progress import Progress, ignore
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir
from r1trt.validate.config import ValidateConfig
from r1trt.validate.facts import facts_of_validation
from r1trt.validate.page import save_report
from r1trt.validate.pairs import StageName, StagePair, checks_of_pair, pairs_to_compare
from r1trt.validate.report import ValidationReport
from r1trt.validate.sources import Sources, sources_from_directory
from r1trt.validate.stages import Stage, stages_from_sources
from r1trt.validate.weights import require_weights_as_built


def validate_engine(config: ValidateConfig, progress: Progress = ignore) -> ValidationReport:
    """Compare every stage that can be run here, and write the report into the artifact.

    Args:
        config: What to validate, and on what.
        progress: Called with (phase, done, total).

    Returns:
        The report; every check of it passed.

    Raises:
        ValidationError: A figure is beyond its threshold. The report is written all the same.
        UnavailableError: A library is missing, nothing of the artifact can be run here, or this machine has
            too little memory for the checkpoint in FP32.
        R1TrtError: The artifact, the reference or the prompts cannot be used.
    """
    _require_libraries()
    sources = sources_from_directory(config.engine, config.reference)
    if sources.checkpoint is not None:
        require_memory(validation_step(parameters_of_config(sources.config)))
    require_weights_as_built(sources, config.reference, progress)
    report = _validated(config, sources, progress)
    path = save_report(report).page
    if not report.passed:
        raise ValidationError(
            "The engine is further from its reference than its precision plan allows.",
            where=path,
            found="; ".join(report.failures),
            fix="see the report; raise the precision of the worst layers in the plan, and build with --plan",
        )
    return report


def _require_libraries() -> None:
    needed = ("matplotlib", "onnxruntime", "polygraphy", "torch", "transformers")
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise UnavailableError(
            "Validation needs libraries that are not installed.",
            found=f"missing: {', '.join(missing)}",
            fix="pip install 'r1trt[cpu,torch]', then run the command again",
        )


def _validated(config: ValidateConfig, sources: Sources, progress: Progress) -> ValidationReport:
    from r1trt.evaluate.compare import compare_models  # needs Polygraphy

    started, created = time.perf_counter(), datetime.now(UTC)
    progress("loading", 0, 1)
    stages = stages_from_sources(sources, threads=config.threads, trust=config.trust_plugins)
    windows = _windows(config, sources)
    pairs = _pairs(config, stages)
    with ExitStack() as loaded:
        models: dict[str, Model] = {
            stage.name: loaded.enter_context(stage.opened()) for stage in stages if stage.opened is not None
        }
        figures = compare_models(models, windows, pairs, progress)
    base = pairs[0][0]
    return ValidationReport(
        directory=config.engine,
        model_name=sources.model_name,
        facts=facts_of_validation(config, sources, windows),
        stages=tuple(stages),
        comparisons=tuple(_comparison(pair, figures[pair], base, sources) for pair in pairs),
        created=created.isoformat(timespec="seconds"),
        seconds=round(time.perf_counter() - started, 1),
    )


def _pairs(config: ValidateConfig, stages: Sequence[Stage]) -> list[StagePair]:
    pairs = pairs_to_compare([stage.name for stage in stages if stage.opened is not None])
    if not pairs:
        raise UnavailableError(
            "Only one stage can be run here, so that there is nothing to compare it with.",
            where=config.engine,
            found="; ".join(f"{stage.name}: {stage.reason}" for stage in stages if stage.reason),
            fix="pass the checkpoint with --reference",
        )
    return pairs


def _comparison(pair: StagePair, figures: PairFigures, base: StageName, sources: Sources) -> Comparison:
    checks = checks_of_pair(
        pair,
        figures.logits,
        base=base,
        plan=_thresholds(sources),
        exact=THRESHOLDS["fp32"],
        continuous=sources.config.is_continuous,
    )
    return Comparison(reference=pair[0], tested=pair[1], figures=figures, checks=tuple(checks))


def _thresholds(sources: Sources) -> Thresholds:
    """The precision plan's; without a plan everything is FP32."""
    artifact = sources.artifact
    if isinstance(artifact, BuildArtifact) and artifact.precision_plan.is_file():
        return load_plan(artifact.precision_plan).thresholds
    return THRESHOLDS["fp32"]


def _windows(config: ValidateConfig, sources: Sources) -> list[Window]:
    documents = documents_from_file(config.prompts or HELDOUT)
    tokenizer = tokenizer_from_dir(config.engine)
    encoded = encoded_documents(documents, tokenizer, vocab_size=sources.config.vocab_size)
    size = min(config.window, sources.room or config.window)
    return windows_from_ids(encoded, size=size, max_tokens=config.max_tokens)
