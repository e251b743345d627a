"""A bisection from files: an export, a plan, and a prompt."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from r1trt.errors import ConfigError, PlanError
from r1trt.export.io import load_export
from r1trt.precision.checks import check_plan_fits_model
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import plan_from_rules
from r1trt.progress import Progress, ignore
from r1trt.runtime.prompts import Document, encoded_documents
from r1trt.search.bisect import Bisection, bisect_plan
from r1trt.search.chain import ModelChain
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


def bisect_prompt(
    model: Path,
    plan: Path,
    prompt: str,
    *,
    worst: int = 2,
    threads: int | None = None,
    progress: Progress = ignore,
) -> tuple[Bisection, dict[int, str]]:
    """Bisect a plan's damage to a prompt.

    Returns:
        What was found, and the text of the tokens that it names.

    Raises:
        R1TrtError: The plan is another model's or lacks scales, or the prompt has less than two tokens, or
            tokens that the model does not know.
    """
    export, loaded = load_export(model), load_plan(plan)
    check_plan_fits_model(loaded, export.model)
    if loaded.missing_scales:
        raise PlanError(
            "The precision plan lacks scales.",
            where=plan,
            found=", ".join(list(loaded.missing_scales)[:3]),
            fix="name the plan of a build, which has them all",
        )
    tokenizer = tokenizer_from_dir(export.artifact.path)
    (ids,) = encoded_documents([Document(text=prompt)], tokenizer, vocab_size=export.config.vocab_size)
    if len(ids) < 2:
        raise ConfigError("The prompt is too short.", found=f"{len(ids)} tokens", expected="at least 2")
    chain = ModelChain(export.model, export.weight_base, threads)
    exact = plan_from_rules(export.model, loaded.arch, "fp32", backend="tensorrt-rtx")
    found = bisect_plan(chain, exact, loaded, np.array(ids, np.int64), worst=worst, progress=progress)
    named = {found.token_exact, found.token_planned, *(item.token for item in found.pieces)}
    return found, {token: tokenizer.decode([token]) for token in named}
