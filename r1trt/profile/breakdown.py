"""The work of a phase, summed up by kind of layer, layer, operator or part, with measured times beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from r1trt.config import ModelConfig
from r1trt.config.checks import MAX_LAYERS
from r1trt.estimate.planned import PlannedModel
from r1trt.profile.measured import ExecutedNode, MeasuredPhase, owners
from r1trt.profile.options import Breakdown
from r1trt.profile.places import OTHER, place_of_node
from r1trt.profile.rows import Row
from r1trt.profile.work import Work

OUTSIDE = "outside of nodes"
"""The row of the time that belongs to no node of a measured backend."""


def rows_of_phase(
    planned: PlannedModel,
    config: ModelConfig,
    work: Sequence[Work],
    breakdown: Breakdown,
    measured: MeasuredPhase | None = None,
) -> list[Row]:
    """Rows: layers in the model's order, everything else by time.

    Args:
        planned: The model in types.
        config: The real model.
        work: Of each part of the sample's nodes.
        breakdown: What a row is.
        measured: What was measured of the phase.
    """
    names = _names(planned, config, work, breakdown, measured)
    rows: dict[str, Row] = {}
    for part in work:
        for (own, counted), layers in names.of_work(planned.sample.real_names(part.layer), part).items():
            place = place_of_node(layers[0], config)
            row = rows.setdefault(counted, Row(name=counted, layer=place.layer, layer_type=place.layer_type))
            row.add(part, len(layers))
            # Of layers it would be said of each that it includes the one before: its last residual sum.
            row.includes |= {own} - {counted} if breakdown != "layer" else set()
    if measured is not None:
        _add_measured(rows, names, measured)
    return sorted(rows.values(), key=_by_place if breakdown == "layer" else _by_time)


def total_row(planned: PlannedModel, work: Sequence[Work], measured: MeasuredPhase | None = None) -> Row:
    """All of a phase as one row."""
    row = Row(name="total")
    for part in work:
        row.add(part, planned.sample.count(part.layer))
    row.weight_bytes = planned.bytes  # a constant that no layer reads is in no other row
    row.measured_seconds = None if measured is None else measured.seconds
    return row


@dataclass(frozen=True, kw_only=True)
class _Names:
    """Names of rows.

    Attributes:
        config: The model.
        breakdown: What a row is.
        operators: Operators of the plan's layers, by name.
        owner: By which layer's node each layer was computed; empty where nothing was measured.
    """

    config: ModelConfig
    breakdown: Breakdown
    operators: Mapping[str, str]
    owner: Mapping[str, str]

    def of_work(self, layers: Sequence[str], work: Work) -> dict[tuple[str, str], list[str]]:
        """Those of `layers` by the rows of a part: its own, and the one that counts it."""
        # What a backend runs as one node is not told apart by parts.
        part = "" if self.owner else work.part
        found: dict[tuple[str, str], list[str]] = {}
        for name in layers:
            own = place_of_node(name, self.config).row(self.breakdown, work.operator, part)
            by = self.owner.get(name, name)
            counted = own if by == name else self._of_layer(by)
            found.setdefault((own, counted), []).append(name if by == name else by)
        return found

    def of_node(self, node: ExecutedNode) -> str:
        """Name of the row that counts a node."""
        if node.layers:
            return self._of_layer(self.owner[node.layers[0]])
        place = place_of_node(node.name, self.config)
        return OTHER if self.breakdown in ("operator", "part") else place.row(self.breakdown, OTHER)

    def _of_layer(self, layer: str) -> str:
        return place_of_node(layer, self.config).row(self.breakdown, self.operators[layer])


def _names(
    planned: PlannedModel,
    config: ModelConfig,
    work: Sequence[Work],
    breakdown: Breakdown,
    measured: MeasuredPhase | None,
) -> _Names:
    seconds, operators = dict[str, float](), dict[str, str]()
    for part in work:
        for name in planned.sample.real_names(part.layer):
            seconds[name] = seconds.get(name, 0.0) + part.seconds
            operators[name] = part.operator
    owner = {} if measured is None else owners(planned, measured.nodes, seconds)
    return _Names(config=config, breakdown=breakdown, operators=operators, owner=owner)


def _add_measured(rows: dict[str, Row], names: _Names, measured: MeasuredPhase) -> None:
    for row in rows.values():
        row.measured_seconds = 0.0
    seconds = [(names.of_node(node), node.seconds) for node in measured.nodes]
    for name, spent in [*seconds, (OUTSIDE, measured.outside)]:
        row = rows.setdefault(name, Row(name=name))
        row.measured_seconds = (row.measured_seconds or 0.0) + spent


def _by_place(row: Row) -> float:
    """The embedding, the layers, the end of the model, and what was executed beside them."""
    if row.layer is not None:
        return row.layer
    return {"embedding": -1.0, OTHER: math.inf}.get(row.layer_type, MAX_LAYERS)


def _by_time(row: Row) -> tuple[bool, float]:
    """What was executed beside the layers comes last."""
    return row.name in (OTHER, OUTSIDE), -(row.measured_seconds or row.seconds)
