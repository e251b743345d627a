from __future__ import annotations

import numpy as np
import pytest

from r1trt.evaluate.logits import LogitsComparison
from r1trt.precision.plan import Thresholds
from r1trt.validate.pairs import StageName, StagePair, checks_of_pair, pairs_to_compare

PLAN = Thresholds(kl_max=0.05, perplexity_increase_max=0.05, agreement_min=0.8, logits_max_relative_error=0.1)
EXACT = Thresholds(
    kl_max=1e-5, perplexity_increase_max=1e-3, agreement_min=0.999, logits_max_relative_error=1e-3
)


def figures(noise: float) -> LogitsComparison:
    generator = np.random.default_rng(0)
    reference = 3 * generator.standard_normal((200, 50)).astype(np.float32)
    tested = reference + noise * generator.standard_normal((200, 50)).astype(np.float32)
    comparison = LogitsComparison()
    comparison.update(reference, tested, reference.argmax(1))
    return comparison


def passes(pair: StagePair, noise: float, *, base: StageName = "checkpoint", continuous: bool = True) -> bool:
    checks = checks_of_pair(pair, figures(noise), base=base, plan=PLAN, exact=EXACT, continuous=continuous)
    assert checks
    return all(check.passed for check in checks)


CASES = {
    "the export has to be exact": (("checkpoint", "exported"), 1e-5, True),
    "and is not held to the plan": (("checkpoint", "exported"), 0.1, False),
    "the typed graph is held to the plan": (("checkpoint", "typed"), 0.1, True),
    "and can miss it": (("checkpoint", "typed"), 1.0, False),
    "the engine is held to its simulation": (("typed", "engine"), 0.1, True),
    "by its logits": (("typed", "engine"), 0.5, False),
}


@pytest.mark.parametrize("case", CASES)
def test_verdicts(case: str) -> None:
    pair, noise, passed = CASES[case]
    assert passes(pair, noise) == passed


def test_the_largest_error_of_a_routed_model_decides_nothing() -> None:
    pair: StagePair = ("typed", "engine")
    assert not checks_of_pair(pair, figures(1.0), base="checkpoint", plan=PLAN, exact=EXACT, continuous=False)
    routed = checks_of_pair(
        ("checkpoint", "exported"), figures(0.0), base="checkpoint", plan=PLAN, exact=EXACT, continuous=False
    )
    assert [check.metric for check in routed][1:] == [
        "KL divergence, mean",
        "perplexity increase",
        "next-token agreement",
    ]


PAIRS: dict[tuple[StageName, ...], list[StagePair]] = {
    ("checkpoint", "exported"): [("checkpoint", "exported")],
    ("checkpoint", "exported", "cpu"): [
        ("checkpoint", "exported"),
        ("checkpoint", "cpu"),
        ("exported", "cpu"),
    ],
    ("checkpoint", "exported", "typed", "engine"): [
        ("checkpoint", "exported"),
        ("checkpoint", "typed"),
        ("checkpoint", "engine"),
        ("exported", "typed"),
        ("typed", "engine"),
    ],
    ("exported", "typed"): [("exported", "typed")],
    ("typed",): [],
}


@pytest.mark.parametrize("executed", PAIRS)
def test_pairs(executed: tuple[StageName, ...]) -> None:
    assert pairs_to_compare(executed) == PAIRS[executed]
