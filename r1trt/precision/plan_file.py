"""A precision plan as YAML, long lists of scales beside it; a file's problems are reported all at once."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import yaml

from r1trt.artifacts.disk import replace_file
from r1trt.errors import PlanError
from r1trt.files import PLAN_BYTES, text_of_file
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import SCHEMA, PrecisionPlan, Thresholds
from r1trt.precision.plan_reader import PlanReader
from r1trt.precision.scales_file import ScalesFile, remove_other_scales, write_scales
from r1trt.precision.yaml_text import parse
from r1trt.text import listing

_COMMENT = """\
# Precision plan: types and scales of each layer, by ONNX node name. Edit it for `r1trt build --plan`.
# Types: fp8_e4m3, int8, bf16, fp32. A quantized value is q * scale; scales are FP32, one a tensor or a row.
# For cpu: int8 or int4 weights with a block_size have a scale a block, which is found while they are written.
"""


class _Dumper(yaml.SafeDumper):
    """Block style for mappings, flow style for lists of scales."""


def _represent_scales(dumper: yaml.SafeDumper, scales: tuple[float, ...]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", scales, flow_style=True)


_Dumper.add_representer(tuple, _represent_scales)


def save_plan(plan: PrecisionPlan, path: Path) -> list[Path]:
    """Write a plan to `path`, and its long lists of scales beside it.

    However the process ends, `path` is the earlier plan or the new one, whole, with the scales that it names:
    these are written before it, without touching the earlier ones, which are removed after it.

    Returns:
        The files: `path`, and `<stem>.scales.safetensors` where there are such lists, with a part of its hash
        in the name where an earlier plan's has that name.
    """
    scales = write_scales(plan, path)
    replace_file(path, yaml_from_plan(plan, scales))
    remove_other_scales(path, None if scales is None else scales.file)
    return [path] if scales is None else [path, path.with_name(scales.file)]


def load_plan(path: Path) -> PrecisionPlan:
    """Read a plan.

    Raises:
        PlanError: The file is missing, is not YAML, or holds unknown keys, wrong types or unusable scales;
            lists all of them with their lines.
    """
    text = text_of_file(path, limit=PLAN_BYTES, error=PlanError, fix="name a plan that a build wrote")
    return plan_from_yaml(text, where=path, directory=path.parent)


def yaml_from_plan(plan: PrecisionPlan, scales: ScalesFile | None = None) -> str:
    """Write a plan as YAML text.

    Args:
        plan: The plan.
        scales: The file that holds some of its lists; None writes all of them into the text.
    """
    file = {} if scales is None else {"scales": {"file": scales.file, "sha256": scales.sha256}}
    stored = {} if scales is None else {name: len(values) for name, values in scales.scales.items()}
    document = {
        "schema": SCHEMA,
        "model_hash": plan.model_hash,
        "arch": plan.arch,
        "precision": plan.precision,
        "builder": dict(plan.builder),
        "thresholds": {item.name: getattr(plan.thresholds, item.name) for item in fields(Thresholds)},
        "calibration": dict(plan.calibration),
        **file,
        "layers": {name: _layer_document(name, layer, stored) for name, layer in plan.layers.items()},
    }
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, default_flow_style=False)
    return _COMMENT + text


def _layer_document(key: str, layer: LayerPrecision, stored: dict[str, int]) -> dict[str, object]:
    values = {item.name: getattr(layer, item.name) for item in fields(LayerPrecision)}
    lengths = {name: {"stored": stored[f"{key}.{name}"]} for name in values if f"{key}.{name}" in stored}
    return {
        name: value for name, value in (values | lengths).items() if value is not None and value is not False
    }


def plan_from_yaml(text: str, *, where: object = "plan", directory: Path | None = None) -> PrecisionPlan:
    """Read a plan from YAML text; see `load_plan`.

    Args:
        text: The YAML.
        where: What messages call it.
        directory: Where its file of scales lies; without one, such a plan is refused.
    """
    document, lines = parse(text, where)
    reader = PlanReader(lines=lines, problems=[], directory=directory)
    plan = reader.plan(document)
    if reader.problems or plan is None:
        raise PlanError(
            "The precision plan is not valid.",
            where=where,
            found=listing(reader.problems, limit=None),
            fix="correct these entries",
        )
    return plan
