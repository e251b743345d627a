"""A precision plan as YAML: readable, strict, and every problem of a file reported at once with its line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import PRECISIONS, LayerPrecision, require_usable
from r1trt.ops.registry import LAYER_OPERATORS, operator_of_layer
from r1trt.precision.plan import PLAN_KINDS, SCHEMA, PrecisionPlan, Thresholds

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HEADER = (
    "schema",
    "model_hash",
    "arch",
    "precision",
    "builder",
    "thresholds",
    "calibration",
    "layers",
)
_COMMENT = """\
# Precision plan: types and scales of each layer, by ONNX node name. Edit it for `r1trt build --plan`.
# Types: fp8_e4m3, bf16, fp32. A quantized value is q * scale; scales are FP32, one a tensor or one a row.
"""


class _Dumper(yaml.SafeDumper):
    """Block style for mappings, flow style for lists of scales."""


def _represent_scales(dumper: yaml.SafeDumper, scales: tuple[float, ...]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", scales, flow_style=True)


_Dumper.add_representer(tuple, _represent_scales)


def short_float(value: float | np.floating[Any]) -> float:
    """The shortest decimal that reads back as the same FP32 number."""
    return float(str(np.float32(value)))


def yaml_from_plan(plan: PrecisionPlan) -> str:
    """Write a plan as YAML text."""
    document = {
        "schema": SCHEMA,
        "model_hash": plan.model_hash,
        "arch": plan.arch,
        "precision": plan.precision,
        "builder": dict(plan.builder),
        "thresholds": {item.name: getattr(plan.thresholds, item.name) for item in fields(Thresholds)},
        "calibration": dict(plan.calibration),
        "layers": {name: _layer_document(layer) for name, layer in plan.layers.items()},
    }
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=False)
    return _COMMENT + text


def save_plan(plan: PrecisionPlan, path: Path) -> None:
    """Write a plan to `path`."""
    path.write_text(yaml_from_plan(plan), encoding="utf-8")


def _layer_document(layer: LayerPrecision) -> dict[str, object]:
    values = {item.name: getattr(layer, item.name) for item in fields(LayerPrecision)}
    return {name: value for name, value in values.items() if value is not None}


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan.

    Raises:
        PlanError: The file is missing, is not YAML, or holds unknown keys, wrong types or unusable scales;
            lists all of them with their lines.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError("The precision plan cannot be read.", where=path, found=error) from error
    return plan_from_yaml(text, where=path)


def plan_from_yaml(text: str, *, where: object = "plan") -> PrecisionPlan:
    """Read a plan from YAML text; see `load_plan`."""
    document, lines = _parse(text, where)
    reader = _Reader(lines=lines, problems=[])
    plan = reader.plan(document)
    if reader.problems or plan is None:
        listing = "\n    ".join(["", *reader.problems])
        raise PlanError(
            "The precision plan is not valid.", where=where, found=listing, fix="correct these entries"
        )
    return plan


_Lines = dict[tuple[str, ...], int]
# Scales of a large model, one a row, are some ten million characters.
_MAX_TEXT = 1 << 27
_MAX_DEPTH = 8
_Made = TypeVar("_Made")


def _parse(text: str, where: object) -> tuple[object, _Lines]:
    try:
        _require_plain(text)
        loader = _Loader(text)
        root = loader.get_single_node()
        document = None if root is None else loader.construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        raise PlanError("The precision plan is not YAML.", where=where, found=error) from error
    lines: _Lines = {}
    repeated = list(_walk(root, (), lines))
    if repeated:
        raise PlanError("The precision plan repeats keys.", where=where, found="; ".join(repeated))
    return document, lines


def _require_plain(text: str) -> None:
    """Raises ValueError for what a plan never holds, and what costs a parser its stack or all memory."""
    if len(text) > _MAX_TEXT:
        raise ValueError(f"{len(text)} characters; at most {_MAX_TEXT} expected")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise ValueError(f"{_line_of(event)}: anchors and aliases are not read")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise ValueError(f"{_line_of(event)}: nested deeper than {_MAX_DEPTH} levels")


def _line_of(event: yaml.Event) -> str:
    return "a line" if event.start_mark is None else f"line {event.start_mark.line + 1}"


def _walk(node: Any, path: tuple[str, ...], lines: _Lines) -> Iterator[str]:
    """Record the line of every key; yields repeated keys, of which YAML itself would keep the last."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        child = (*path, str(key.value))
        if child in lines:
            yield f"line {key.start_mark.line + 1}: '{'.'.join(child)}' (first on line {lines[child]})"
        lines[child] = key.start_mark.line + 1
        yield from _walk(value, child, lines)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Turns the parsed document into a plan and collects what is wrong with it."""

    lines: _Lines
    problems: list[str]

    def plan(self, document: object) -> PrecisionPlan | None:
        if not isinstance(document, dict):
            self.problems.append("line 1: the file holds no mapping")
            return None
        self._keys(document, (), _HEADER, _HEADER)
        if document.get("schema", SCHEMA) != SCHEMA:
            self._report(("schema",), f"schema is {document['schema']}, this program reads {SCHEMA}")
        model_hash, arch, asked = (self._text(document, name) for name in ("model_hash", "arch", "precision"))
        precision = next((kind for kind in PLAN_KINDS if kind == asked), None)
        if precision is None:
            self._report(("precision",), f"precision is {asked}, can be {' | '.join(PLAN_KINDS)}")
        builder = self._mapping(document, "builder", (str,))
        calibration = self._mapping(document, "calibration", (str, int, float))
        thresholds = self._thresholds(document.get("thresholds"))
        layers = self._layers(document.get("layers"))
        if self.problems or thresholds is None or precision is None:
            return None
        return PrecisionPlan(
            model_hash=model_hash,
            arch=arch,
            precision=precision,
            builder=builder,
            thresholds=thresholds,
            calibration=calibration,
            layers=layers,
        )

    def _report(self, path: tuple[str, ...], problem: str) -> None:
        line = next((self.lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in self.lines), 1)
        self.problems.append(f"line {line}: {problem}")

    def _keys(
        self,
        found: Mapping[object, object],
        path: tuple[str, ...],
        known: tuple[str, ...],
        needed: tuple[str, ...],
    ) -> None:
        label = ".".join(path) or "the header"
        for key in found:
            if key not in known:
                self._report((*path, str(key)), f"{label}: unknown key '{key}' (known: {', '.join(known)})")
        missing = [key for key in needed if key not in found]
        if missing:
            self._report(path, f"{label}: missing {', '.join(missing)}")

    def _text(self, document: Mapping[str, object], name: str) -> str:
        value = document.get(name, "")
        if not isinstance(value, str):
            self._report((name,), f"{name} is {value!r}, expected text")
            return ""
        return value

    def _mapping(self, document: Mapping[str, object], name: str, types: tuple[type, ...]) -> dict[str, Any]:
        value = document.get(name, {})
        if not isinstance(value, dict):
            self._report((name,), f"{name} is {value!r}, expected a mapping")
            return {}
        for key, item in value.items():
            if not isinstance(key, str) or not isinstance(item, types) or isinstance(item, bool):
                self._report((name, str(key)), f"{name}.{key} is {item!r}")
        return value

    def _thresholds(self, value: object) -> Thresholds | None:
        names = tuple(item.name for item in fields(Thresholds))
        if not isinstance(value, dict):
            self._report(("thresholds",), f"thresholds is {value!r}, expected a mapping")
            return None
        self._keys(value, ("thresholds",), names, names)
        wrong = [key for key in names if key in value and not _is_number(value[key])]
        for key in wrong:
            self._report(("thresholds", key), f"thresholds.{key} is {value[key]!r}, expected a number")
        if wrong or set(value) != set(names):
            return None
        return self._made(("thresholds",), lambda: Thresholds(**{key: _float(value[key]) for key in names}))

    def _layers(self, value: object) -> dict[str, LayerPrecision]:
        if not isinstance(value, dict):
            self._report(("layers",), f"layers is {value!r}, expected a mapping by node name")
            return {}
        made = {name: self._layer(name, entry) for name, entry in value.items()}
        return {name: layer for name, layer in made.items() if layer is not None}

    def _layer(self, name: object, entry: object) -> LayerPrecision | None:
        path = ("layers", str(name))
        if not isinstance(name, str) or not isinstance(entry, dict):
            self._report(path, f"layer {name!r} is {entry!r}, expected a mapping")
            return None
        before = len(self.problems)
        self._keys(entry, path, tuple(_FIELD_READERS), ("op", "input", "output", "reason"))
        values: dict[str, Any] = {}
        for key, value in entry.items():
            if key in _FIELD_READERS:
                try:
                    values[key] = _FIELD_READERS[key](value)
                except ValueError as error:
                    self._report((*path, key), f"{name}: {key} {error}")
        if len(self.problems) > before:
            return None
        return self._made(path, lambda: _checked_layer(values))

    def _made(self, path: tuple[str, ...], make: Callable[[], _Made]) -> _Made | None:
        try:
            return make()
        except PlanError as error:
            self._report(path, f"{'.'.join(path)}: {error}")
            return None


def _checked_layer(values: Mapping[str, Any]) -> LayerPrecision:
    layer = LayerPrecision(**values)
    require_usable(layer.op, list(operator_of_layer(layer).problems(layer)))
    return layer


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(value: object) -> float:
    """A YAML number as a float; integers beyond its range are infinite."""
    assert isinstance(value, int | float)
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _read_text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"is {value!r}, expected text")
    return value


def _read_op(value: object) -> str:
    if not isinstance(value, str) or value not in LAYER_OPERATORS:
        raise ValueError(f"is {value!r}, can be {', '.join(LAYER_OPERATORS)}")
    return str(value)


def _read_precision(value: object) -> str:
    if not isinstance(value, str) or value not in PRECISIONS:
        raise ValueError(f"is {value!r}, can be {', '.join(PRECISIONS)}")
    return str(value)


def _read_axis(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"is {value!r}, expected an integer")
    return value


def _read_scale(value: object) -> float:
    if not _is_number(value):
        raise ValueError(f"is {value!r}, expected one FP32 number")
    scale = _float(value)
    with np.errstate(over="ignore", under="ignore"):
        stored = np.float32(scale)
    if not np.isfinite(stored) or stored <= 0:
        raise ValueError(f"is {value!r}; scales are finite FP32 numbers above 0")
    return scale


def _read_scales(value: object) -> float | tuple[float, ...]:
    if not isinstance(value, list):
        return _read_scale(value)
    if not value:
        raise ValueError("is an empty list")
    if any(isinstance(item, list) for item in value):
        # TensorRT-RTX 1.7 builds FP8 x FP8 products with blocked weight scales, and computes them wrongly.
        raise ValueError("is blocked (a list of lists); use one scale, or one a row of the weight")
    return tuple(_read_scale(item) for item in value)


_FIELD_READERS: Mapping[str, Callable[[object], Any]] = {
    "op": _read_op,
    "input": _read_precision,
    "weight": _read_precision,
    "output": _read_precision,
    "input_scale": _read_scale,
    "weight_scale": _read_scales,
    "weight_axis": _read_axis,
    "mid_scale": _read_scale,
    "down_scale": _read_scales,
    "shared_weight": _read_precision,
    "internals": _read_text,
    "reason": _read_text,
}
