"""Which layers' types break a prompt: the model runs in FP32 but for one piece, then for one group of layers.

Legend: S tokens of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from r1trt.evaluate.divergence import Reference
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.search.chain import Array, ModelChain, SegmentSession


@dataclass(frozen=True, kw_only=True)
class Suspect:
    """What some layers' types do to a prompt.

    Attributes:
        name: The piece, or the layer.
        kl: Mean KL divergence of the next token that they cause alone, in nats.
        kl_last: That of the prompt's last token.
        kl_so_far: Mean with everything up to here in the plan's types; None for single layers.
        token: The most likely next token with these layers alone in the plan's types.
    """

    name: str
    kl: float
    kl_last: float
    kl_so_far: float | None
    token: int


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Where a plan's damage to a prompt comes from.

    Attributes:
        token_exact: The most likely next token in FP32.
        token_planned: In the plan's types.
        kl: Mean KL divergence of the whole plan.
        pieces: By piece, in order.
        layers: By layer of the worst pieces, the worst first.
    """

    token_exact: int
    token_planned: int
    kl: float
    pieces: tuple[Suspect, ...]
    layers: tuple[Suspect, ...]


def bisect_plan(
    chain: ModelChain,
    exact: PrecisionPlan,
    plan: PrecisionPlan,
    ids_S: Array,
    *,
    worst: int = 2,
    progress: Progress = ignore,
) -> Bisection:
    """Look for the layers that a plan's damage to one prompt comes from.

    Args:
        chain: The model.
        exact: Its plan in FP32.
        plan: The plan, with all its scales.
        ids_S: The prompt's token ids.
        worst: How many pieces are looked into layer by layer.
        progress: Called with (phase, done, total).
    """
    sessions = [chain.session(index, exact) for index in range(len(chain.segments))]
    states = [ids_S[None]]
    for session in sessions[:-1]:
        states.append(session(states[-1]))
    exact_SV = sessions[-1](states[-1])[0]
    reference = Reference(exact_SV)
    planned, pieces = ids_S[None], []
    for index, segment in enumerate(chain.segments):
        progress("bisecting", index, len(chain.segments))
        typed = chain.session(index, plan)
        planned = typed(planned)
        alone = _finished(sessions, index, typed(states[index]))
        so_far = float(reference.kl(_finished(sessions, index, planned)).mean())
        pieces.append(_suspect(segment.name, reference, alone, so_far))
    progress("bisecting", len(chain.segments), len(chain.segments))
    ranked = sorted(range(len(pieces)), key=lambda index: -pieces[index].kl)[:worst]
    layers: list[Suspect] = []
    for index in ranked:
        layers += _layers(chain, exact, plan, sessions, states, index, reference)
    return Bisection(
        token_exact=int(exact_SV[-1].argmax()),
        token_planned=int(planned[0, -1].argmax()),
        kl=float(reference.kl(planned[0]).mean()),
        pieces=tuple(pieces),
        layers=tuple(sorted(layers, key=lambda suspect: -suspect.kl)),
    )


def _layers(
    chain: ModelChain,
    exact: PrecisionPlan,
    plan: PrecisionPlan,
    sessions: Sequence[SegmentSession],
    states: Sequence[Array],
    index: int,
    reference: Reference,
) -> list[Suspect]:
    found = []
    for name in sorted(chain.segments[index].layer_names() & plan.layers.keys()):
        mixed = replace(exact, layers={**exact.layers, name: plan.layers[name]})
        alone = _finished(sessions, index, chain.session(index, mixed)(states[index]))
        found.append(_suspect(name, reference, alone, None))
    return found


def _finished(sessions: Sequence[SegmentSession], index: int, result: Array) -> Array:
    """The logits [S, V] when the pieces behind one go on with its result."""
    for session in sessions[index + 1 :]:
        result = session(result)
    logits_SV: Array = result[0]
    return logits_SV


def _suspect(name: str, reference: Reference, logits_SV: Array, so_far: float | None) -> Suspect:
    kl_S = reference.kl(logits_SV)
    return Suspect(
        name=name,
        kl=float(kl_S.mean()),
        kl_last=float(kl_S[-1]),
        kl_so_far=so_far,
        token=int(np.argmax(logits_SV[-1])),
    )
