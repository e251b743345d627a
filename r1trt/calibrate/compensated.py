"""The weights of a plan's linears, rounding errors made up for, kept in files until they are written.

Legend: N rows of a weight, K its columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from r1trt.artifacts.disk import require_free_space
from r1trt.calibrate.compensate import compensated_weight
from r1trt.calibrate.runner import probed_session
from r1trt.calibrate.text import TokenChunks
from r1trt.errors import PlanError
from r1trt.graph.block_codes import block_name, block_tensors, packed_codes
from r1trt.graph.edit import data_type, static_dims
from r1trt.graph.quantize import WeightSource, require_finite
from r1trt.graph.weights import typed_weight_name, weight_source_from_value
from r1trt.lowerings.input_products import input_products
from r1trt.ops.layer_precision import INT4, LayerPrecision
from r1trt.ops.linear import LINEAR, LINEAR_BIAS
from r1trt.ops.product import grid_of_layer
from r1trt.ops.registry import layer_operator_of
from r1trt.passes.add_probes import INPUT_SCALE, Probe, probes_for
from r1trt.precision.checks import layer_nodes
from r1trt.precision.plan import PrecisionPlan
from r1trt.progress import Progress

PASS_BYTES = 1 << 30
"""Of the sums of products that one pass over the text gathers; more layers take more passes."""

Weights = dict[str, ir.TensorProtocol]
"""By the name of the typed graph's initializer."""


def compensated_layers(plan: PrecisionPlan) -> list[str]:
    """The linears of a plan that have quantized weights."""
    linears = (LINEAR.name, LINEAR_BIAS.name)
    return [key for key, layer in plan.layers.items() if layer.op in linears and layer.quantizes_weight]


@dataclass(frozen=True, kw_only=True)
class Compensation:
    """Compensates the weights of a plan, as many layers at a time as memory is allowed for.

    Attributes:
        plan: Has all its scales; those of rows and tensors stay, those of blocks are found here.
        model: Exported graph.
        weight_base: Directory that its external weights are relative to.
        chunks: The text; each chunk is a sequence.
        directory: Where codes and scales are kept.
        progress: Called with (phase, done, total).
    """

    plan: PrecisionPlan
    model: ir.Model
    weight_base: Path
    chunks: TokenChunks
    directory: Path
    progress: Progress

    @property
    def bytes(self) -> int:
        """Size of what is kept."""
        nodes, layers = layer_nodes(self.model), self.plan.layers
        return sum(_bytes(layers[key], nodes[key]) for key in compensated_layers(self.plan))

    def weights(self) -> Weights:
        """Codes of all quantized linears, and the scales of their blocks.

        Raises:
            DiskFullError: The directory has no room for them.
            PlanError: Activations are not finite, or a weight's inputs cannot be used.
        """
        layers = compensated_layers(self.plan)
        nodes = layer_nodes(self.model)
        require_free_space(self.directory, self.bytes)
        found: Weights = {}
        done = 0
        for probes in _passes(probes_for(self.model, dict.fromkeys(layers, (INPUT_SCALE,))), nodes):
            hessians = self._hessians(probes, nodes)
            for probe in probes:
                for key in probe.layers:
                    self.progress("compensating weights", done, len(layers))
                    found |= self._compensated(key, nodes[key], hessians[probe.name])
                    done += 1
                del hessians[probe.name]
        self.progress("compensating weights", done, len(layers))
        return found

    def _hessians(self, probes: Sequence[Probe], nodes: dict[str, ir.Node]) -> dict[str, NDArray[np.float32]]:
        widths = {probe.name: _width(nodes[probe.layers[0]]) for probe in probes}
        own = [replace(probe, statistic=input_products(widths[probe.name])) for probe in probes]
        totals: dict[str, NDArray[np.float32]] = {}
        with closing(probed_session(self.model, self.weight_base, own, input_products(1))) as session:
            session.reset(1)
            for done, chunk in enumerate(self.chunks):
                self.progress("measuring inputs", done, len(self.chunks))
                found = session.run(chunk[None], np.array([len(chunk)], np.int64), np.zeros(1, np.int64))
                for name, products in found.items():
                    totals[name] = totals[name] + products if name in totals else products
        self.progress("measuring inputs", len(self.chunks), len(self.chunks))
        return {name: total.reshape(widths[name], widths[name]) for name, total in totals.items()}

    def _compensated(self, key: str, node: ir.Node, hessian_KK: NDArray[np.float32]) -> Weights:
        layer = self.plan.layers[key]
        value = _weight(node)
        source, grid = weight_source_from_value(value), grid_of_layer(layer)
        try:
            codes_NK, scales = compensated_weight(
                _whole(source), hessian_KK, grid, searched=layer.weight == INT4, scales=_known_scales(layer)
            )
        except PlanError as error:
            raise error.within(key) from error
        if layer.block_size is None:
            dtype = data_type(layer.weight)
            return self._kept(typed_weight_name(source, dtype), codes_NK, dtype)
        name = block_name(source.name, grid)
        packed = packed_codes(codes_NK, grid)
        return self._kept(name, packed, ir.DataType.UINT8) | self._kept(
            f"{name}.scales", scales, ir.DataType.FLOAT
        )

    def _kept(self, name: str, array: NDArray[Any], dtype: ir.DataType) -> Weights:
        """An array in a file of its own, as a tensor that points there."""
        path = self.directory / f"{len(list(self.directory.iterdir()))}.bin"
        array.tofile(path)
        tensor = ir.ExternalTensor(
            path.name, 0, array.nbytes, dtype, shape=ir.Shape(array.shape), name=name, base_dir=path.parent
        )
        return {name: tensor}


def _weight(node: ir.Node) -> ir.Value:
    operator = layer_operator_of(node)
    assert operator is not None, "a plan has layers of operators alone"
    return operator.required(node, "w")


def _bytes(layer: LayerPrecision, node: ir.Node) -> int:
    """Of a layer's codes, and of its blocks' scales."""
    source = weight_source_from_value(_weight(node))
    if layer.block_size is None:
        return math.prod(source.shape) * data_type(layer.weight).bitwidth // 8
    return sum(tensor.nbytes for tensor in block_tensors(source, grid_of_layer(layer), source.name))


def _width(node: ir.Node) -> int:
    return static_dims(_weight(node))[1]


def _whole(source: WeightSource) -> NDArray[np.float32]:
    whole_NK, start = np.empty(source.shape, np.float32), 0
    for chunk in source.chunks():
        require_finite(chunk, source.name)
        whole_NK[start : start + len(chunk)] = chunk
        start += len(chunk)
    return whole_NK


def _known_scales(layer: LayerPrecision) -> NDArray[np.float32] | None:
    """The plan's scales as [N,1] or [1,1]; None of blocks."""
    if layer.weight_scale is None:
        return None
    return np.asarray(layer.weight_scale, np.float32).reshape(-1, 1)


def _passes(probes: Sequence[Probe], nodes: dict[str, ir.Node]) -> Iterator[list[Probe]]:
    """Neighbouring probes whose sums fit into memory together."""
    taken: list[Probe] = []
    size = 0
    for probe in probes:
        own = _width(nodes[probe.layers[0]]) ** 2 * np.dtype(np.float32).itemsize
        if taken and size + own > PASS_BYTES:
            yield taken
            taken, size = [], 0
        taken.append(probe)
        size += own
    if taken:
        yield taken
