"""Rows and keys of the tiles of Hopper's block branch, against the definition; products need that GPU."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace

import numpy as np
import pytest
from kernels.build import build_program

from r1trt.plugin_checks.cases.attention_cases import ALL_TO_FIRST, FIRST_TO_FIRST, AttentionCase, key_masks

PROBE = """
#include "hla_attention/hopper_block_rounds.cuh"
#include "hla_attention/hopper_full_rows.cuh"
using namespace r1trt::kernels;
using namespace r1trt::kernels::hla;
using namespace r1trt::kernels::hla::prefill;
#define EXPORT extern "C" __attribute__((visibility("default")))
struct Call {
  int batch, seq, heads, kv_heads, block, inter, slots, num_sms;
  int64_t const *past, *lengths;
  uint8_t* computed;  // [B, H, S], how often
  uint8_t* seen;      // [B, H, S, slots], how often
  float const* lam;   // [B, S, H], or null
  uint8_t* full;      // [B, H, S], how often
  int needed;         // tiles of the block branch
};
Attention attentionOf(Call const& c) {
  Attention a{};
  a.params.batch = c.batch, a.params.seq = c.seq, a.params.heads = c.heads, a.params.kv_heads = c.kv_heads;
  a.params.block_size = c.block, a.params.inter_block = static_cast<InterBlock>(c.inter);
  a.params.past_len = c.past, a.params.seq_len = c.lengths, a.params.cache_capacity = c.slots;
  a.params.lam = c.lam;
  a.slots = c.slots, a.group = c.heads / c.kv_heads;
  return a;
}
// Place `index` of a list: its position, or -1 where zeros are loaded.
int positionOf(Attention const& a, BlockKeys const& keys, int index) {
  BoxPlace const place = placeOf(a, keys, index / kBoxKeys);
  int64_t const step = place.firsts ? a.params.block_size : 1;
  int64_t const position = (place.row + index % kBoxKeys) * step;
  return position < a.slots ? static_cast<int>(position) : -1;
}
int lookAtRow(Call const& c, Attention const& a, BlockTiles const& tiles, BlockRows const& rows,
              BlockKeys const& keys, int row) {
  int const token = rows.token(tiles, row), head = rows.head(tiles, row);
  if (!isOurs(a, tiles, rows, token)) return 0;
  int64_t const at = (int64_t{rows.b} * c.heads + head) * c.seq + token;
  c.computed[at] += 1;
  int faults = head / a.group != rows.kv_head;
  BlockSight const sight = sightOf(a, tiles, rows, keys, token);
  BlockSight const least = sightOf(a, tiles, rows, keys, rows.token(tiles, row / 64 * 64));
  Unwritten const unwritten = unwrittenOf(a, tiles, rows, keys);
  for (int index = 0; index < keys.tiles() * kKeys; ++index) {
    bool const sees = sight.word(index / 32 * 32) >> index % 32 & 1;
    int const position = positionOf(a, keys, index);
    if (sees && position >= 0) c.seen[at * c.slots + position] += 1;
    faults += (sees && position < 0) || (!sees && index < least.firsts);
    bool const cleared = unwritten.among(index, 1);
    faults += cleared ? sees : position >= rows.past + rows.tokens;
  }
  return faults;
}
EXPORT int look(Call const* call) {
  Attention const a = attentionOf(*call);
  BlockTiles const tiles = tilesOf(a.params, call->num_sms);
  int faults = 0;
  for (int block = 0; block < tiles.schedule.blocks.divisor; ++block) {
    for (int round = 0; round < tiles.schedule.rounds; ++round) {
      int const tile = tileOf(tiles.schedule, round, block);
      if (tile >= tiles.schedule.tiles) continue;
      BlockRows const rows = rowsOf(a, tiles, tile);
      if (rows.begin >= rows.end) continue;
      BlockKeys const keys = keysOf(a, tiles, rows);
      for (int row = 0; row < kRows; ++row) faults += lookAtRow(*call, a, tiles, rows, keys, row);
    }
  }
  return faults;
}
struct Rounds {
  uint32_t needed[kRoundWords];
};
void blockKernel(Attention a, BlockTiles tiles, Call* c) {
  R1TRT_SHARED(Rounds, rounds);
  int const block = static_cast<int>(blockIdx.x);
  listRounds(a, tiles, block, rounds.needed);
  __syncthreads();
  for (int round = 0; round < tiles.schedule.rounds && threadIdx.x < kRows; ++round) {
    if ((rounds.needed[round / 32] >> round % 32 & 1) == 0) continue;
    BlockRows const rows = rowsOf(a, tiles, tileOf(tiles.schedule, round, block));
    int const row = static_cast<int>(threadIdx.x), token = rows.token(tiles, row);
    if (row == 0) c->needed += 1;
    if (isOurs(a, tiles, rows, token)) {
      c->computed[(int64_t{rows.b} * c->heads + rows.head(tiles, row)) * c->seq + token] += 1;
    }
  }
}
void fullKernel(Attention a, FullTiles tiles, Call const* c) {
  R1TRT_SHARED(TileList, list);
  int const block = static_cast<int>(blockIdx.x);
  listTiles(a, tiles, block, list);
  for (int i = 0; i < list.size(tiles.schedule, block) && threadIdx.x < kRows; ++i) {
    FullRows const rows = fullRowsOf(a, tiles, list.tiles[i]);
    int const token = rows.token0 + static_cast<int>(threadIdx.x);
    if (token < 0 || token >= rows.tokens) continue;
    c->full[(int64_t{rows.b} * c->heads + rows.head) * c->seq + token] += 1;
  }
}
// Both kernels' lists of tiles: how often a row is computed.
EXPORT int list(Call* call) {
  Attention a = attentionOf(*call);
  std::vector<uint4> votes(votesSize(a.params) / sizeof(uint4), uint4{~0U, ~0U, ~0U, ~0U});
  a.votes = reinterpret_cast<uint8_t*>(votes.data());
  BlockTiles const tiles = tilesOf(a.params, call->num_sms);
  FullTiles const full = fullTilesOf(a.params, call->num_sms);
  auto shape = [](char const* name, Schedule const& schedule) {
    return LaunchShape{name, dim3(static_cast<unsigned>(schedule.blocks.divisor)), kThreads};
  };
  cudaError_t error = cudaSuccess;
  if (call->lam != nullptr) {
    error = launch(shape("block", tiles.schedule), nullptr, blockKernel, a, tiles, call);
  }
  if (error == cudaSuccess) error = launch(shape("full", full.schedule), nullptr, fullKernel, a, full, call);
  return error;
}
EXPORT int divided(int number, int by) { return Divisor(by).divide(number); }
"""


class Call(ctypes.Structure):
    """As in the probe."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("batch", "seq", "heads", "kv_heads", "block", "inter", "slots")),
        ("num_sms", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("past", "lengths", "computed", "seen", "lam", "full")),
        ("needed", ctypes.c_int),
    ]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a call."""

    seq: int = 200
    heads: int = 4
    kv_heads: int = 1
    block: int = 32
    past: tuple[int, ...] = (0,)
    lengths: tuple[int, ...] = (200,)
    room: int = 0
    num_sms: int = 3


SHAPES = [
    Shape(),
    Shape(heads=6, kv_heads=2, past=(45,)),
    Shape(heads=3, kv_heads=3, past=(100, 0, 7), lengths=(200, 3, 129), room=77),
    Shape(heads=16, kv_heads=2, past=(31,), room=-50),
    Shape(heads=8, kv_heads=1, block=16, past=(500,), room=13),
    Shape(block=7, past=(11, 500), lengths=(199, 64)),
    Shape(block=1, heads=2, past=(300,), room=-3),
    Shape(block=48, heads=2, past=(90,), room=-190),
    Shape(block=256, heads=2, kv_heads=2, past=(1000,), room=4),
    Shape(block=100, past=(-3, 40, 10**6), lengths=(200, 200, 200)),
    Shape(seq=1100, lengths=(1100,), past=(3000,), heads=2, num_sms=1),
]


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """What a call reads and what it counts."""

    past: np.ndarray
    lengths: np.ndarray
    computed: np.ndarray
    seen: np.ndarray
    full: np.ndarray
    lam: np.ndarray | None
    call: Call


def arrays_of(shape: Shape, inter: int, lam: np.ndarray | None = None, *, sees: bool = True) -> Arrays:
    """Zeros to count in."""
    past, lengths = (np.array(values, np.int64) for values in (shape.past, shape.lengths))
    slots = max(past for past in shape.past if past < 10**6) + shape.seq + shape.room
    computed, full = (np.zeros((len(past), shape.heads, shape.seq), np.uint8) for _ in range(2))
    seen = np.zeros((*computed.shape, slots if sees else 0), np.uint8)
    call = Call(
        batch=len(past), seq=shape.seq, heads=shape.heads, kv_heads=shape.kv_heads, block=shape.block,
        inter=inter, slots=slots, num_sms=shape.num_sms, past=past.ctypes.data, lengths=lengths.ctypes.data,
        computed=computed.ctypes.data, seen=seen.ctypes.data, full=full.ctypes.data,
        lam=None if lam is None else lam.ctypes.data,
    )  # fmt: skip
    return Arrays(past=past, lengths=lengths, computed=computed, seen=seen, full=full, lam=lam, call=call)


def positions(arrays: Arrays, b: int) -> np.ndarray:
    """Of the tokens of a batch row that are no padding."""
    placed = 0 <= arrays.past[b] <= arrays.call.slots
    past = int(arrays.past[b])
    return np.arange(past, past + (int(arrays.lengths[b]) if placed else 0))


def ours(shape: Shape, inter: int, position: np.ndarray) -> np.ndarray:
    """Tokens whose block branch is Hopper's."""
    return np.asarray((inter == ALL_TO_FIRST) | (position % shape.block != 0))


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source = tmp_path_factory.mktemp("hopper") / "probe.cpp"
    source.write_text(PROBE)
    return ctypes.CDLL(str(build_program(source, "plain", "-shared")))


@pytest.mark.parametrize("inter", [FIRST_TO_FIRST, ALL_TO_FIRST])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_row_once_with_the_keys_it_sees(probe: ctypes.CDLL, shape: Shape, inter: int) -> None:
    arrays = arrays_of(shape, inter)
    assert probe.look(ctypes.byref(arrays.call)) == 0
    case = AttentionCase(block=shape.block, inter_block=inter)
    for b in range(len(shape.past)):
        position = positions(arrays, b)
        _, keys = key_masks(case, position, arrays.call.slots)
        tokens, count = ours(shape, inter, position), len(position)
        assert np.array_equal(arrays.computed[b, :, :count], np.broadcast_to(tokens, (shape.heads, count)))
        assert not arrays.computed[b, :, count:].any()
        want = np.broadcast_to(keys[tokens], (shape.heads, *keys[tokens].shape))
        assert np.array_equal(arrays.seen[b, :, :count][:, tokens], want)


# More tiles than a thread block looks through at once, and than its list has.
MANY = Shape(seq=1100, heads=64, kv_heads=64, past=(0, 7, 40, 1, 2, 3), lengths=(1100, 900, *[1100] * 4))


def lam_of(shape: Shape, kind: str) -> np.ndarray | None:
    """[B, S, H]: whole stretches of tokens at 0, at 1, or between."""
    size = (len(shape.past), shape.seq, shape.heads)
    if kind == "heads":
        return np.ascontiguousarray(np.broadcast_to(np.arange(shape.heads) % 4 == 1, size), np.float32)
    if kind == "stretches":
        choice = np.random.default_rng(0).choice(
            [0, 0, 0, 0.5, 1, 1], (size[0], shape.seq // 90 + 1, size[2])
        )
        return np.ascontiguousarray(np.repeat(choice, 90, 1)[:, : shape.seq], np.float32)
    return None if kind == "none" else np.full(size, float(kind == "ones"), np.float32)


@pytest.mark.parametrize("kind", ["none", "zeros", "ones", "heads", "stretches"])
@pytest.mark.parametrize("shape", [*SHAPES, MANY, replace(MANY, num_sms=1)], ids=str)
def test_tiles_with_weight_are_computed_once(probe: ctypes.CDLL, shape: Shape, kind: str) -> None:
    inter = FIRST_TO_FIRST if shape.num_sms == 1 else ALL_TO_FIRST
    arrays = arrays_of(shape, inter, lam_of(shape, kind), sees=False)
    assert probe.list(ctypes.byref(arrays.call)) == 0
    assert arrays.full.max() <= 1
    assert arrays.computed.max() <= 1
    for b in range(len(shape.past)):
        position = positions(arrays, b)
        lam = np.ones((len(position), shape.heads)) if arrays.lam is None else arrays.lam[b, : len(position)]
        full, computed = (counts[b, :, : len(position)].T for counts in (arrays.full, arrays.computed))
        assert full[lam > 0].all()
        assert computed[(lam < 1) & ours(shape, inter, position)[:, None]].all()
        # A head without weight is left out, and so is a tile.
        assert not full[:, ~(lam > 0).any(0)].any()
    assert (arrays.call.needed == 0) == (kind in ("none", "ones"))


@pytest.mark.parametrize("by", [1, 2, 3, 7, 32, 100, 65535, 2**31 - 1])
def test_division_by_multiplication(probe: ctypes.CDLL, by: int) -> None:
    numbers = {0, 1, by - 1, by, min(by * 3 - 1, 2**31 - 1), 10**9 + 7, 2**31 - 2, 2**31 - 1}
    assert {n: probe.divided(n, by) for n in numbers} == {n: n // by for n in numbers}
