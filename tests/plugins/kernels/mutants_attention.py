"""Defects of R1HLAAttention's kernels."""

from __future__ import annotations

from kernels.build import Change
from kernels.mutant import CACHE, NOWHERE_AT_ALL, OUTSIDE, PADDING, Mutant, overflow, race

FOLDER = "hla_attention/"
HEADS_64, LATENT = "attention_64.cu", "attention_latent.cu"
FIRST, ALL = "seq=127", "seq=127,inter_block=1,data_type=1"
LENGTHS = "batch=4,seq=40,heads=4,kv_heads=2,past=(0,31,64,70),lengths=(40,0,1,33)"
DECODE = "batch=2,seq=1,heads=8,kv_heads=2,past=(400,31),room=700"
LONG_DECODE = "seq=1,heads=8,kv_heads=2,inter_block=1,past=(992,),room=40,num_sms=16"
FULL = "batch=2,seq=20,heads=4,kv_heads=2,past=(10,40),room=-7"
NOWHERE = "batch=4,seq=20,heads=4,kv_heads=2,past=(-70,10,-5,4294967299)"
FEWER_THAN_NONE = "batch=4,seq=20,past=(40,10,-1099511627776,3),lengths=(20,-4294967287,20,12),room=-21"


def changed(file: str, old: str, new: str, *sources: str) -> Change:
    """A change of a source, or of a header that `sources` (heads of 64 numbers by themselves) include."""
    compiled = sources or ((file,) if file.endswith(".cu") else (HEADS_64,))
    return Change(file=FOLDER + file, old=old, new=new, sources=tuple(FOLDER + source for source in compiled))


KEYS = [
    Mutant(
        name="one key of the future",
        change=changed(
            "rows.cuh", "{0, 0, min(row.position, keys.size", "{0, 0, min(row.position + 1, keys.size"
        ),
        cases=(FIRST, "seq=31", "seq=127,lam=none"),
    ),
    Mutant(
        name="an own block without its first key",
        change=changed("rows.cuh", "max(row.own_begin + shift, keys", "max(row.own_begin + shift + 1, keys"),
        cases=(FIRST, ALL, "seq=127,lam=zeros"),
    ),
    Mutant(
        name="one first token too many",
        change=changed("rows.cuh", "{min(row.firsts, keys.firsts)", "{min(row.firsts + 1, keys.firsts)"),
        cases=("seq=77,block=16,inter_block=1,past=(23,)",),
    ),
    Mutant(
        name="no mask where one row sees a whole tile",
        change=changed(
            "softmax.cuh", "!__all_sync(kAllLanes, all ? 1 : 0)", "!__any_sync(kAllLanes, all ? 1 : 0)"
        ),
        cases=("seq=70,lam=none,past=(14,)",),
    ),
    Mutant(
        name="a tile's last key is taken to be seen",
        change=changed(
            "rows.cuh", "return index + count - 1 <= visible.high", "return index + count - 2 <= visible.high"
        ),
        cases=("seq=70,lam=none,past=(14,)",),
    ),
    Mutant(
        name="first tokens for every query",
        change=changed("rows.cuh", "p.inter_block == InterBlock::kAllToFirst ? block : 0", "block"),
        cases=(FIRST, "seq=77,heads=3,block=7,past=(11,)"),
    ),
    Mutant(
        name="blocks counted from the call's first token",
        change=changed("rows.cuh", "ceilDiv(work.past, size) * size - work.past", "0", HEADS_64),
        cases=("seq=77,heads=3,block=7,past=(11,)",),
    ),
    Mutant(
        name="the last tile of a part forgotten",
        change=changed(
            "attention.cuh",
            "tiles) * (work.split + 1) / a.splits",
            "tiles) * (work.split + 1) / (a.splits + 1)",
        ),
        cases=(FIRST, DECODE, LONG_DECODE),
    ),
    overflow(
        "keys beyond the capacity",
        changed("rows.cuh", "last = last < slots ? last : slots - 1;", "", HEADS_64),
        FULL,
    ),
    Mutant(
        name="another head of the group",
        change=changed(
            "rows.cuh",
            "work.kv_head * a.group + (work.candidate0 + candidate) % a.group",
            "work.kv_head * a.group + candidate % a.group",
        ),
        cases=("seq=130,heads=6,kv_heads=2,lam=heads,cached=False",),
    ),
]

SOFTMAX = [
    Mutant(
        name="an output that is not rescaled",
        change=changed("softmax.cuh", "state.o[n][2 * r] *= decay;", ""),
        cases=(FIRST, "seq=300,lam=none"),
    ),
    Mutant(
        name="a sum that is not rescaled",
        change=changed("softmax.cuh", "state.l[r] *= decay;", ""),
        cases=(FIRST, "seq=300,lam=none"),
    ),
    Mutant(
        name="the largest score of half the lanes",
        change=changed(
            "softmax.cuh",
            "__shfl_xor_sync(kAllLanes, m, 2)",
            "__shfl_xor_sync(kAllLanes, m, 1)",
        ),
        cases=(FIRST, "default"),
    ),
    Mutant(
        name="a row without a key yet",
        change=changed(
            "softmax.cuh",
            "m == -INFINITY ? 0.0F : m;  // no key yet",
            "m;  // no key yet",
        ),
        cases=(FIRST,),
    ),
    Mutant(
        name="natural exponentials",
        change=changed("hla_attention.cu", "scale * 1.4426950408889634F", "scale"),
        cases=(FIRST, DECODE),
    ),
    Mutant(
        name="sums of warps added as they are",
        change=changed("softmax.cuh", "sum += other[Tile::kV + 1] * share;", "sum += other[Tile::kV + 1];"),
        cases=(DECODE, LONG_DECODE),
    ),
    Mutant(
        name="parts of equal share",
        change=changed(
            "cache.cu",
            "for (float& share : mine) share = fastExp2(share - offset);",
            "for (float& share : mine) share = 1.0F;",
        ),
        cases=(DECODE, LONG_DECODE),
    ),
    Mutant(
        name="the full branch twice",
        change=changed("cache.cu", "addBranch(a, all_rows + row, 1.0F - lam", "addBranch(a, row, 1.0F - lam"),
        cases=(LONG_DECODE,),
    ),
    Mutant(
        name="the block branch forgotten where both are",
        change=changed("attention.cuh", "low += toFloat(before.value[0]);", ""),
        cases=(FIRST, ALL),
    ),
    Mutant(
        name="a lam near 1 that is not rounded",
        change=changed(
            "stages.cuh",
            "lam > 1.0F - p.lam_skip ? 1.0F : lam;",
            "lam > 1.0F - p.lam_skip ? lam : lam;",
            HEADS_64,
        ),
        cases=("seq=150,heads=4,lam_skip=0.3,scale=0.2",),
    ),
]

LANES = [
    Mutant(
        name="keys in another lane's place",
        change=changed(
            "softmax.cuh",
            "int const row = place.key0 + n * 8 + lane % 8 + lane / 16 * 8;",
            "int const row = place.key0 + n * 8 + lane % 16;",
        ),
        cases=("seq=31", FIRST),
    ),
    Mutant(
        name="values that are not transposed",
        change=changed("softmax.cuh", "ldmatrixX4Transposed(b, values", "ldmatrixX4(b, values"),
        cases=("seq=31", FIRST),
    ),
    Mutant(
        name="the latent's values by their own pitch",
        change=changed("softmax.cuh", "(Tile::kLatent ? Tile::kQk : Tile::kV) * 2", "Tile::kV * 2", LATENT),
        cases=("seq=5,heads=8,qk=576,v=512,lam=none,past=(60,)",),
    ),
]

CACHES = [
    Mutant(
        name="padding in the cache",
        change=changed("cache.cu", "if (s >= tokensOf(p, b) || slot", "if (s > tokensOf(p, b) || slot"),
        cases=(LENGTHS,),
        report=CACHE,
    ),
    Mutant(
        name="slots in front of the cache",
        change=changed("stages.cuh", "p.past_len[b] >= 0 && ", "", "cache.cu"),
        cases=(NOWHERE,),
        report=OUTSIDE,
        sanitizer="asan",
    ),
    Mutant(
        name="keys in front of the cache",
        change=changed("stages.cuh", "p.past_len[b] >= 0 && ", "", HEADS_64),
        cases=(NOWHERE,),
        report=NOWHERE_AT_ALL,
        sanitizer="asan",
    ),
    Mutant(
        name="a row behind the cache",
        change=changed("stages.cuh", "p.past_len[b] <= p.cache_capacity", "true", HEADS_64),
        cases=(NOWHERE,),
        report=PADDING,
    ),
    Mutant(
        name="fewer tokens than none",
        change=changed("stages.cuh", "length <= 0 || ", "", "cache.cu"),
        cases=(FEWER_THAN_NONE,),
        report=CACHE,
    ),
    overflow(
        "one slot more than the cache has",
        changed("cache.cu", "slot >= p.cache_capacity) return;", "slot > p.cache_capacity) return;"),
        FULL,
    ),
    Mutant(
        name="keys written again",
        change=changed("cache.cu", "p.write_key_cache ? p.k : nullptr", "p.write_key_cache ? nullptr : p.k"),
        cases=(FIRST,),
        report=CACHE,
    ),
    Mutant(
        name="padding that is not cleared",
        change=changed(
            "attention.cuh",
            "if (token < work.tokens || token >= p.seq) continue;",
            "if (token <= work.tokens || token >= p.seq) continue;",
        ),
        cases=(LENGTHS,),
        report=PADDING,
    ),
]

BARRIERS = [
    race(
        "no barrier when a tile has landed",
        changed(
            "attention.cuh", "__syncthreads();  // this tile has landed for all; the other stage is free", ""
        ),
        "seq=127,lam=none",
    ),
    race(
        "no barrier before the stages are filled",
        changed("attention.cuh", "__syncthreads();  // the stages are free", ""),
        FIRST,
    ),
    race(
        "no barrier between tiles of rows",
        changed(
            "attention.cuh", "__syncthreads();  // the tile before is done with the rows and queries", ""
        ),
        FIRST,
    ),
    race(
        "no barrier before warps are merged",
        changed("softmax.cuh", "__syncthreads();  // no warp reads keys any more", ""),
        DECODE,
    ),
    race(
        "no barrier after the votes",
        changed("rows.cuh", "  }\n  __syncthreads();\n#pragma unroll", "  }\n#pragma unroll", HEADS_64),
        FIRST,
    ),
    Mutant(
        name="rows with both branches are not counted",
        change=changed(
            "rows.cuh", "votesBefore(list, 2 * kCandidateWords) - list", "list.full_only - list", HEADS_64
        ),
        cases=(FIRST,),
    ),
    race(
        "no barrier after the rows are listed",
        changed(
            "attention.cuh",
            "waitForLastGrid();  // new keys and values are in the cache\n  __syncthreads();",
            "waitForLastGrid();",
        ),
        FIRST,
    ),
    Mutant(
        name="no wait for a tile",
        change=changed(
            "attention.cuh",
            "copyWait<0>();\n    __syncthreads();  // this tile",
            "__syncthreads();  // this tile",
        ),
        cases=(FIRST, DECODE),
    ),
]

MUTANTS = [*KEYS, *SOFTMAX, *LANES, *CACHES, *BARRIERS]
