"""Hopper's layouts as the kernels' own functions have them, against CuTe's, computed on the host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from harness.compile import PLUGINS, objects
from harness.cute_headers import cute_headers
from numpy.typing import NDArray

from r1trt.plugin_checks.host_build import host_compilation, host_layer, linked
from r1trt.plugin_tools.objects import Compilation
from r1trt.plugin_tools.toolchain import toolchain_from_machine

HERE = Path(__file__).parent / "layouts"
KERNELS = PLUGINS / "kernels"
Tables = dict[str, NDArray[np.uint64]]
BYTES = ("bytes_16bit", "bytes_8bit", "bytes_values")
DESCRIPTORS = ("a_16bit_0", "a_16bit_1", "b_16bit", "a_8bit_0", "a_8bit_1", "b_8bit", "b_values")
# A result, and CuTe's sums that it is of, with how many columns a warpgroup has of it.
RESULTS = {
    "products_128_below": ("sums_128_below", 128),
    "products_128_beside": ("sums_128_beside", 256),
    "products_256_below": ("sums_256_below", 256),
    "outputs_128": ("sums_128_below", 128),
}
# One character of a layout each: file, what it says, what it is to say, the tables that tell.
PLANTED = [
    ("common/hopper.cuh", "kTileAlignment >> 4) << 32;  // of 8", "kSwizzleBytes >> 4) << 32;  // of 8",
     "b_values"),
    ("common/hopper.cuh", "(group_bytes >> 4) << 16", "(group_bytes >> 3) << 16", "b_values"),
    ("common/hopper.cuh", "(sharedAddress(tile) + offset) >> 4", "(sharedAddress(tile) + 2 * offset) >> 4",
     "a_16bit_0"),
    ("common/tensor_map.h", "CU_TENSOR_MAP_SWIZZLE_128B", "CU_TENSOR_MAP_SWIZZLE_64B", "map_16bit"),
    ("hla_attention/hopper_latent_tile.cuh", "(vector ^ (row % kSwizzleRows))", "(vector ^ (row % 4))",
     "given"),
    ("hla_attention/hopper_keys.cuh", "16 * word + i / 2 * 4 + 2 * r", "16 * word + i / 2 * 4 + 2 * (1 - r)",
     "sums_128_below"),
    ("dynamic_moe/hopper_tile.cuh", "kWarpgroup / kWarpSize * 16 +", "kWarpgroup / kWarpSize * 8 +",
     "products_128_below"),
]  # fmt: skip


def tables(sources: list[Compilation], name: str) -> Tables:
    with objects() as cache:
        program = linked(cache, name, sources, ())
    printed = subprocess.run([program], capture_output=True, text=True, check=True, timeout=60).stdout
    lines = (line.split() for line in printed.splitlines())
    return {name: np.array([int(value) for value in values], np.uint64) for name, *values in lines}


@pytest.fixture(scope="module")
def cute() -> Tables:
    chain = toolchain_from_machine()
    source = Compilation(
        source=HERE / "cute_layouts.cpp", compiler=chain.cxx, version=chain.cxx_version,
        flags=("-std=c++17", "-O0"), folders=(),
        system=(cute_headers(), chain.include, chain.include / "cccl"),
    )  # fmt: skip
    return tables([source], "cute-layouts")


def own_tables(kernels: Path) -> Tables:
    paths = (HERE / "own_layouts.cpp", *host_layer())
    return tables([host_compilation(path, kernels, "plain") for path in paths], "own-layouts")


def origins(sums: NDArray[np.uint64], threads: int, columns: int) -> NDArray[np.uint64]:
    """Of each element of a result, in order, the thread and the register of CuTe's that it is."""
    places = sums.reshape(threads, -1, 2).astype(np.int64)
    found = np.zeros((places[..., 0].max() + 1, columns, 2), np.uint64)
    thread, register = np.indices(places.shape[:2])
    found[places[..., 0], places[..., 1]] = np.stack([thread, register], -1)
    return found.ravel()


def expected(cute: Tables) -> Tables:
    """What each of our tables has to be, from CuTe's."""
    found = {name: cute[name] for name in (*DESCRIPTORS, *BYTES, "sums_64", "sums_128_below")}
    found |= {name: origins(cute[sums], 256, columns) for name, (sums, columns) in RESULTS.items()}
    found["map_16bit"] = found["map_8bit"] = np.array([cute["swizzle"][0], 128], np.uint64)
    # Weights are the scores of the same place.
    scores = {tuple(place): i for i, place in enumerate(cute["sums_128_below"].reshape(-1, 2).tolist())}
    weights = [scores[tuple(place)] % 64 for place in cute["weights"].reshape(-1, 2).tolist()]
    found["packed"] = np.array(weights, np.uint64)
    given = origins(cute["sums_64"], 128, 64).reshape(64, 64, 2)
    bytes_of = cute["bytes_16bit"].reshape(128, 128)[:64, :64].astype(np.int64)
    found["given"] = np.zeros((64 * 64, 2), np.uint64)
    found["given"][bytes_of // 2] = given
    found["given"] = found["given"].ravel()
    values = origins(cute["sums_256"], 128, 256).reshape(64, 256, 2)
    found["outputs_512"] = np.concatenate([values, values + np.array([128, 0], np.uint64)], 1).ravel()
    narrow = origins(cute["sums_64"], 128, 64).reshape(64, 64, 2)
    found["outputs_64"] = np.concatenate([narrow, narrow + np.array([128, 0], np.uint64)]).ravel()
    return found


def differing(own: Tables, wanted: Tables) -> set[str]:
    assert own.keys() == wanted.keys()
    return {name for name, table in wanted.items() if not np.array_equal(own[name], table)}


def test_layouts_are_cutes(cute: Tables) -> None:
    assert differing(own_tables(KERNELS), expected(cute)) == set()


def test_values_rows_stay_whole(cute: Tables) -> None:
    """What clears the rows of keys that nobody wrote takes them to be 128 bytes beside one another."""
    places = cute["bytes_values"].reshape(128, 128).astype(np.int64)
    rows = places // 128 % 128
    assert np.array_equal(rows, np.broadcast_to(np.arange(128), rows.shape))


@pytest.mark.parametrize(("file", "old", "new", "table"), PLANTED, ids=[f"{p[3]}-{p[2]}" for p in PLANTED])
def test_a_wrong_layout_is_found(
    file: str, old: str, new: str, table: str, cute: Tables, tmp_path: Path
) -> None:
    kernels = tmp_path / "kernels"
    shutil.copytree(KERNELS, kernels)
    text = (kernels / file).read_text()
    assert text.count(old) == 1
    (kernels / file).write_text(text.replace(old, new))
    assert table in differing(own_tables(kernels), expected(cute))
