"""Refuse what builders would get wrong: in a graph that was just typed, and in what a parser would get."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from r1trt.arch import Backend
from r1trt.errors import BuildError, PlanError
from r1trt.passes.traps import builder_traps, listed, typing_traps


class CheckTypedPass(ir.passes.InPlacePass):
    """Refuse untyped values and forms that no builder gets right; changes nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises PlanError that lists what is wrong."""
        traps = typing_traps(model)
        if traps:
            raise PlanError(f"The typed graph has {len(traps)} faults.", found=listed(traps))
        return ir.passes.PassResult(model, False)


class CheckBuilderFormsPass(ir.passes.InPlacePass):
    """Refuse forms that this builder crashes on, drops or miscomputes; changes nothing.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        sms: Compute capabilities that the graph is built for.
    """

    def __init__(self, backend: Backend, sms: Sequence[int]) -> None:
        super().__init__()
        self._backend, self._sms = backend, tuple(sms)

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Raises BuildError that lists node and reason of each."""
        traps = builder_traps(model, self._backend, self._sms)
        if traps:
            raise BuildError(
                f"The typed graph has {len(traps)} forms that {self._backend} does not build correctly.",
                found=listed(traps),
                fix="change the lowering or the precision plan of these nodes",
            )
        return ir.passes.PassResult(model, False)
