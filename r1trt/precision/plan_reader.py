"""From a parsed document to a precision plan: all that is wrong with it is collected, with its line."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from r1trt.errors import PlanError
from r1trt.ops.layer_precision import LayerPrecision, require_usable
from r1trt.ops.registry import operator_of_layer
from r1trt.precision.plan import PLAN_KINDS, SCHEMA, PrecisionPlan, Thresholds
from r1trt.precision.plan_fields import FIELD_READERS, float_from_yaml, is_number
from r1trt.precision.scales_file import LISTS, read_scales
from r1trt.precision.yaml_text import Lines

_Made = TypeVar("_Made")
Stored = Mapping[str, tuple[float, ...]]
SCALES_KEYS = ("file", "sha256")
HEADER = (
    "schema",
    "model_hash",
    "arch",
    "precision",
    "builder",
    "thresholds",
    "calibration",
    "layers",
)
_OPTIONAL = ("scales",)


@dataclass(frozen=True, kw_only=True)
class PlanReader:
    """Turns the parsed document into a plan and collects what is wrong with it."""

    lines: Lines
    problems: list[str]
    directory: Path | None = None

    def plan(self, document: object) -> PrecisionPlan | None:
        """The plan, or None and `problems`."""
        if not isinstance(document, dict):
            self.problems.append("line 1: the file holds no mapping")
            return None
        self._keys(document, (), HEADER + _OPTIONAL, HEADER)
        if document.get("schema", SCHEMA) != SCHEMA:
            self._report(("schema",), f"schema is {document['schema']}, this program reads {SCHEMA}")
        model_hash, arch, asked = (self._text(document, name) for name in ("model_hash", "arch", "precision"))
        precision = next((kind for kind in PLAN_KINDS if kind == asked), None)
        if precision is None:
            self._report(("precision",), f"precision is {asked}, can be {' | '.join(PLAN_KINDS)}")
        builder = self._mapping(document, "builder", (str,))
        calibration = self._mapping(document, "calibration", (str, int, float))
        thresholds = self._thresholds(document.get("thresholds"))
        stored = self._stored_scales(document.get("scales"))
        layers = self._layers(document.get("layers"), stored)
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
        wrong = [key for key in names if key in value and not is_number(value[key])]
        for key in wrong:
            self._report(("thresholds", key), f"thresholds.{key} is {value[key]!r}, expected a number")
        if wrong or set(value) != set(names):
            return None
        return self._made(
            ("thresholds",), lambda: Thresholds(**{key: float_from_yaml(value[key]) for key in names})
        )

    def _stored_scales(self, value: object) -> Stored:
        """The lists of the file of scales, by `<layer>.<scale>`."""
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(value.get(key), str) for key in SCALES_KEYS):
            self._report(("scales",), f"scales is {value!r}, expected the texts {' and '.join(SCALES_KEYS)}")
            return {}
        self._keys(value, ("scales",), SCALES_KEYS, SCALES_KEYS)
        if self.directory is None:
            self._report(("scales",), "scales lie in a file; read the plan from its own file")
            return {}
        try:
            return read_scales(self.directory, value["file"], value["sha256"])
        except ValueError as error:
            self._report(("scales",), f"scales {error}")
            return {}

    def _layers(self, value: object, stored: Stored) -> dict[str, LayerPrecision]:
        if not isinstance(value, dict):
            self._report(("layers",), f"layers is {value!r}, expected a mapping by node name")
            return {}
        unused = sorted(set(stored) - set(_stored_names(value)))
        if unused:
            self._report(("scales",), f"scales hold '{unused[0]}', which no layer asks for")
        made = {name: self._layer(name, entry, stored) for name, entry in value.items()}
        return {name: layer for name, layer in made.items() if layer is not None}

    def _layer(self, name: object, entry: object, stored: Stored) -> LayerPrecision | None:
        path = ("layers", str(name))
        if not isinstance(name, str) or not isinstance(entry, dict):
            self._report(path, f"layer {name!r} is {entry!r}, expected a mapping")
            return None
        before = len(self.problems)
        self._keys(entry, path, tuple(FIELD_READERS), ("op", "input", "output", "reason"))
        values: dict[str, Any] = {}
        for key, value in entry.items():
            if key in FIELD_READERS:
                try:
                    values[key] = _field(f"{name}.{key}", key, value, stored)
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


def _stored_names(layers: Mapping[Any, Any]) -> list[str]:
    """The lists that layers say to be in the file of scales."""
    entries = [(name, entry) for name, entry in layers.items() if isinstance(entry, dict)]
    return [f"{name}.{key}" for name, entry in entries for key in entry if isinstance(entry[key], dict)]


def _field(full_name: str, key: str, value: object, stored: Stored) -> Any:
    """One field of a layer; a list of scales may stand as `{stored: <length>}`."""
    if key not in LISTS or not isinstance(value, dict):
        return FIELD_READERS[key](value)
    if list(value) != ["stored"]:
        raise ValueError(f"is {value!r}, expected numbers, or 'stored' with their count")
    found = stored.get(full_name)
    if found is None:
        raise ValueError("is not in the file of scales")
    if value["stored"] != len(found):
        raise ValueError(f"has {len(found)} scales in the file, expected {value['stored']!r}")
    return found


def _checked_layer(values: Mapping[str, Any]) -> LayerPrecision:
    layer = LayerPrecision(**values)
    require_usable(layer.op, list(operator_of_layer(layer).problems(layer)))
    return layer
