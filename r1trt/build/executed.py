"""Evidence of what a TensorRT-RTX plan computes: the products in the text that its compiler leaves inside.

The format is undocumented and belongs to one version of the library: what cannot be read fails no build.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from r1trt.build.network_check import LayerCheck, NetworkReport
from r1trt.build.read_back import node_of_metadata
from r1trt.errors import BuildError
from r1trt.files import open_file
from r1trt.graph.network_view import plan_key
from r1trt.ops.linear import LINEAR, LINEAR_BIAS
from r1trt.precision.plan import PrecisionPlan
from r1trt.text import listing

_ONE_PRODUCT = frozenset({LINEAR.name, LINEAR_BIAS.name})
_NAMES = {"float": "fp32"}  # of the plan's text, where they are not the precision plan's
# Beyond it the search through the weights' bytes takes longer than the build.
MAX_BYTES = 1 << 29

_TEXT = re.compile(rb"[\x20-\x7e\n\t]{200,}")
_TENSOR = re.compile(r"tensor=\{([^\n]*)")
_TENSOR_NAME = re.compile(r'name=(?:"([^"]*)"|(\S+))')
_TENSOR_TYPE = re.compile(r"type=(\w+)")
_PRODUCT = re.compile(r'^\s+fully_connected=\{ name="?([^"\s]+)"?([^\n]*)', re.MULTILINE)
_LAYERS = re.compile(r'layers="([^"]*)"')


def products_of_engine(path: Path, keys: Mapping[str, object]) -> dict[str, Any]:
    """The products of an engine.

    Args:
        path: Serialized engine.
        keys: The precision plan's layers.

    Returns:
        `products`: for each one the plan's layers that it computes, and its operand and result types; or
        `unread`, the reason why there are none.
    """
    size = path.stat().st_size
    if not 0 < size <= MAX_BYTES:
        return {"unread": f"{size} bytes; only engines up to {MAX_BYTES} bytes are searched"}
    with (
        open_file(path, limit=MAX_BYTES, error=BuildError) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        text = "\n".join(match[0].decode("ascii") for match in _TEXT.finditer(content))
    products = [_product(name, rest, _tensor_types(text), keys) for name, rest in _PRODUCT.findall(text)]
    return {"products": products} if products else {"unread": "no products in the text of the engine"}


def _tensor_types(text: str) -> dict[str, str]:
    types = {}
    for tensor in _TENSOR.findall(text):
        name, dtype = _TENSOR_NAME.search(tensor), _TENSOR_TYPE.search(tensor)
        if name and dtype:
            types[name[1] or name[2]] = dtype[1]
    return types


def _product(name: str, rest: str, types: Mapping[str, str], keys: Mapping[str, object]) -> dict[str, Any]:
    def side(kind: str) -> list[str]:
        found = re.search(kind + r"(?:_args)?=\{([^}]*)\}", rest)
        return [types.get(item, "?") for item in re.findall(r'"([^"]*)"', found[1])] if found else []

    layers = _LAYERS.search(rest)
    nodes = re.findall(r"\[ONNX Layer: [^\]]*\]", layers[1]) if layers else []
    # Merged products join their names with "+".
    found = {plan_key(node_of_metadata(node), keys) for node in nodes}
    found |= {plan_key(part, keys) for part in name.split("+")}
    return {
        "name": name,
        "layers": sorted(key for key in found if key is not None),
        "inputs": side("input"),
        "output": side("output"),
    }


def with_executed(report: NetworkReport, found: Mapping[str, Any]) -> NetworkReport:
    """A report with what the engines execute, by layer, where their text says it.

    Args:
        report: Plan against network.
        found: What `products_of_engine` read of each engine, among other things.
    """
    by_layer: dict[str, dict[str, None]] = {}
    for engine in found.values():
        for product in engine.get("products", ()) if isinstance(engine, Mapping) else ():
            for layer in product["layers"]:
                by_layer.setdefault(layer, {})[_product_text(product)] = None
    layers = [
        replace(layer, executed=tuple(sorted(by_layer[layer.name]))) if layer.name in by_layer else layer
        for layer in report.layers
    ]
    return replace(report, layers=tuple(layers), executed=found)


def _product_text(product: Mapping[str, Any]) -> str:
    """Operands and result, as in "fp8_e4m3 x fp8_e4m3 -> bf16"."""
    operands, result = (
        [_NAMES.get(name, name) for name in names] for names in (product["inputs"][:2], product["output"])
    )
    return f"{' x '.join(operands)} -> {' and '.join(result)}"


def require_no_wider_products(report: NetworkReport, plan: PrecisionPlan) -> None:
    """Refuse engines in which products that are planned in FP8 or INT8 run in something wider.

    A network can hold quantized operands, and its engine multiply wide ones all the same: all of the error,
    none of the speed. Layers whose products the engine's text does not show are left alone.

    Raises:
        BuildError: Lists the layers with what they execute.
    """
    fake = [
        f"{layer.name}, planned in {planned.input}: {', '.join(layer.executed)}"
        for layer in report.layers
        if (planned := plan.layers[layer.name]).quantizes_input
        and _is_fake(layer, f"{planned.input} x {planned.input} -> ")
    ]
    if fake:
        raise BuildError(
            f"The engine multiplies {len(fake)} layers in wider types than the plan asks for.",
            found=listing(fake),
            expected="products of two operands of the planned type",
            fix="give these layers bf16 in the plan, or build with --allow-fake-fp8",
        )


def _is_fake(layer: LayerCheck, real: str) -> bool:
    """Whether products that could be read are wider; experts have their router's, which is to be."""
    read = [text for text in layer.executed if "?" not in text and " x " in text]
    wide = [text for text in read if not text.startswith(real)]
    return bool(wide) if layer.op in _ONE_PRODUCT else bool(wide) and len(wide) == len(read)
