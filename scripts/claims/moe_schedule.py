"""The rows and tiles that the kernels' own scheduler makes of a mixture's tokens, run on the CPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from r1trt.config import MoeConfig
from r1trt.plugin_checks.cases.arrays import BFLOAT16, DTYPES, address, aligned_copy
from r1trt.plugin_checks.cases.moe_cases import GREEDY, GROUP_TWO_HIGHEST
from r1trt.plugin_checks.cases.params import MoeParams
from r1trt.plugin_checks.host_build import host_compilation, host_layer, linked
from r1trt.plugin_tools.compilers import Compilers
from r1trt.plugin_tools.objects import ObjectCache
from r1trt.plugin_tools.sources import source_directory

SOURCE = Path(__file__).with_suffix(".cu")
_SM = 90


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Where the scheduler puts the tokens of one layer.

    Attributes:
        expert_TK: Kept experts in order of falling score, int32; -1 behind them.
        row_TK: Row of a token for its k-th expert, int32; -1 where there is none.
        offset: First row of each expert, and of what is behind them.
        tiles: How many tiles are computed.
        tile_rows: Rows of a tile.
    """

    expert_TK: np.ndarray
    row_TK: np.ndarray
    offset: np.ndarray
    tiles: int
    tile_rows: int

    @property
    def rows(self) -> int:
        """Rows that are of use: pairs of a token and an expert."""
        return int(self.offset[-1])

    @property
    def utilization(self) -> float:
        """Useful rows over the rows of the tiles that are computed."""
        return self.rows / (self.tiles * self.tile_rows)


@cache
def scheduler(objects: Path) -> ctypes.CDLL:
    """Compiles the mixture's kernels for the CPU, once for each version of their sources; takes minutes.

    Args:
        objects: Where objects and library go.

    Raises:
        BuildError: A source does not compile.
        RuntimeError: The parameters in C++ are not those of Python.
    """
    kernels = source_directory() / "kernels"
    sources = [*sorted((kernels / "dynamic_moe").glob("*.cu")), *host_layer(), SOURCE]
    with Compilers(1) as compilers:
        cached = ObjectCache(objects, compilers)
        compiled = [host_compilation(path, kernels, "plain") for path in sources]
        library = ctypes.CDLL(str(linked(cached, "moe-schedule", compiled, ("-shared",))))
    library.claims_moe_workspace.restype = ctypes.c_size_t
    if library.claims_moe_params_size() != ctypes.sizeof(MoeParams):
        raise RuntimeError("MoeParams differ between C++ and Python.")
    return library


def schedule(
    library: ctypes.CDLL, config: MoeConfig, weight_ED: Tensor, x_TD: Tensor, tile_rows: int
) -> Schedule:
    """Routes tokens and lays them out in tiles.

    Args:
        library: Of `scheduler`.
        config: The mixture; its router has softmax scores.
        weight_ED: The router's.
        x_TD: Its tokens, rounded to BF16 here.
        tile_rows: Rows of a tile.

    Raises:
        RuntimeError: The kernels refuse.
    """
    T, K, E = len(x_TD), config.top_k, config.num_experts
    x = aligned_copy(x_TD.to(torch.float32).numpy().astype(DTYPES[BFLOAT16]))
    weight = aligned_copy(weight_ED.to(torch.float32).numpy())
    params = _params(library, config, T, x, weight)
    workspace = aligned_copy(np.zeros(library.claims_moe_workspace(ctypes.byref(params)), np.uint8))
    params.workspace, params.workspace_size = workspace.ctypes.data, workspace.size
    shapes = {"expert": (T, K), "row": (T, K), "offset": (E + 1,), "first_tile": (E + 1,), "of": (T * K + E,)}
    out = {name: np.full(shape, -1, np.int32) for name, shape in shapes.items()}
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in out.values()]
    if status := library.claims_moe_schedule(ctypes.byref(params), tile_rows, *pointers):
        raise RuntimeError(f"The scheduler refused: cudaError {status}.")
    return Schedule(
        expert_TK=out["expert"],
        row_TK=out["row"],
        offset=out["offset"],
        tiles=int(out["first_tile"][-1]),
        tile_rows=tile_rows,
    )


def _params(library: ctypes.CDLL, config: MoeConfig, tokens: int, x: Any, weight: Any) -> MoeParams:
    params = MoeParams()
    library.claims_moe_defaults(ctypes.byref(params))
    fields = {
        "batch": 1, "seq": tokens, "hidden": x.shape[1], "experts": config.num_experts,
        "width": config.expert_width, "top_k": config.top_k, "top_k_min": config.top_k_min,
        "adaptive_threshold": config.adaptive_threshold, "n_group": config.n_group,
        "topk_group": config.topk_group, "sm": _SM,
        "topk_method": GREEDY if config.n_group == 1 else GROUP_TWO_HIGHEST,
        "x": address(x), "w_router": address(weight), "data_type": BFLOAT16, "weight_type": BFLOAT16,
    }  # fmt: skip
    for name, value in fields.items():
        setattr(params, name, value)
    return params
