"""What a choice does to the next token: the KL divergence from the unquantized model, one group at a time.

Only the group's own pieces are computed in the choice's types; those behind the first hand the difference on.

Legend: S tokens of one window, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from r1trt.evaluate.divergence import Reference
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress, ignore
from r1trt.search.candidates import Choice, Group, plan_of_choices
from r1trt.search.chain import Array, ModelChain, SegmentSession


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What one choice of one group costs.

    Attributes:
        kl: Mean KL divergence of the next token, in nats.
        error: Its standard error over the tokens.
    """

    kl: float
    error: float


BROKEN = 1e6
"""KL divergence of logits that are not finite."""
NONE = Damage(kl=0.0, error=0.0)
Damages = dict[str, dict[str, Damage]]
"""By group, by kind of choice."""


def measured_damages(
    chain: ModelChain,
    exact: PrecisionPlan,
    groups: Sequence[Group],
    windows: Sequence[Array],
    known: Mapping[str, Mapping[str, Damage]] | None = None,
    progress: Progress = ignore,
) -> Iterator[tuple[str, str, Damage]]:
    """Measure every choice but each group's widest, which is taken to do none.

    Args:
        chain: The model.
        exact: Its plan in FP32.
        groups: What is chosen from.
        windows: Token ids [S].
        known: What was measured before, and is left out.
        progress: Called with ("measuring layers", choices done, choices).

    Yields:
        Group, kind, and what it costs, as they come.
    """
    sessions = [chain.session(index, exact) for index in range(len(chain.segments))]
    states = _states(sessions, windows)
    references = [Reference(sessions[-1](state)[0]) for state in states[-1]]
    open_choices = [
        (index, group, choice)
        for index, group in _by_first_piece(chain, groups)
        for choice in group.choices[1:]
        if choice.kind not in (known or {}).get(group.name, {})
    ]
    for done, (index, group, choice) in enumerate(open_choices):
        progress("measuring layers", done, len(open_choices))
        damage = _damage(chain, exact, sessions, states[index], references, index, choice)
        yield group.name, choice.kind, damage
    progress("measuring layers", len(open_choices), len(open_choices))


def _by_first_piece(chain: ModelChain, groups: Sequence[Group]) -> list[tuple[int, Group]]:
    """Groups with the first piece that they change; a tied head's group changes the last one, too."""
    names = [segment.layer_names() for segment in chain.segments]
    firsts = [
        (next(index for index, own in enumerate(names) if not own.isdisjoint(group.layers)), group)
        for group in groups
    ]
    return sorted(firsts, key=lambda item: item[0])


def _states(sessions: Sequence[SegmentSession], windows: Sequence[Array]) -> list[list[Array]]:
    """What each piece gets, for each window."""
    states = [[ids_S[None] for ids_S in windows]]
    for session in sessions[:-1]:
        states.append([session(state) for state in states[-1]])
    return states


def _damage(
    chain: ModelChain,
    exact: PrecisionPlan,
    sessions: Sequence[SegmentSession],
    states: Sequence[Array],
    references: Sequence[Reference],
    index: int,
    choice: Choice,
) -> Damage:
    plan = plan_of_choices(exact, [choice])
    run = [
        session if chain.segments[at].layer_names().isdisjoint(choice.layers) else chain.session(at, plan)
        for at, session in enumerate(sessions[index:], start=index)
    ]
    pieces: list[npt.NDArray[np.float64]] = []
    for state, reference in zip(states, references, strict=True):
        result = state
        for session in run:
            result = session(result)
        pieces.append(reference.kl(result[0]))
    # A choice that breaks the model is one that nothing is worth.
    kl_T = np.nan_to_num(np.concatenate(pieces), nan=BROKEN, posinf=BROKEN)
    return Damage(kl=float(kl_T.mean()), error=float(kl_T.std() / np.sqrt(len(kl_T))))
