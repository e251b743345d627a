"""The three operators' bodies in a graph: set by spec, or taken out for plugins and other bodies."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from r1trt.lowerings.bodies import LoweringBackend, set_bodies


class SetBodiesPass(ir.passes.InPlacePass):
    """Each node gets the body of its spec, from the first of the backends that computes in its types.

    Args:
        backends: Whose bodies.
        leave: Names of nodes that get none.
    """

    def __init__(self, *backends: LoweringBackend, leave: Collection[str] = ()) -> None:
        super().__init__()
        self._backends, self._leave = backends, leave

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises ExportError where no backend has a body for a node's attributes or types."""
        return ir.passes.PassResult(model, set_bodies(model, *self._backends, leave=self._leave))


class DropBodiesPass(ir.passes.InPlacePass):
    """Every local function goes, the layers' too: what a plan types are the calls."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Take the functions out, and the names that told bodies of one operator apart."""
        modified = bool(model.functions)
        model.functions.clear()
        for node in model.graph:
            node.overload = ""
        return ir.passes.PassResult(model, modified)
