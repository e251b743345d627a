"""How much memory a step takes: bytes of all tensors that are alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operators make, until they are freed; what one needs inside is not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _address(leaf) not in given | self._known:
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, address, size).atexit = False

    def _freed(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes of tensors that are alive at once, beyond those that were before.

    Args:
        run: What is measured, on this thread: a backward pass on a CPU is.
    """
    with _LiveTensors() as tensors:
        run()
    return int(tensors.peak)
