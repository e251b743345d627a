"""Defects of R1DynamicRoPE's kernel."""

from __future__ import annotations

from kernels.build import Change
from kernels.mutant import NOT_WRITTEN, Mutant, overflow, race

FILE = "dynamic_rope/dynamic_rope.cu"
FAR = "batch=3,seq=5,head_dim=128,rotary_dim=128,data_type=0,alpha=0.1,original=4096,past=(0,7,131000)"
INTERLEAVED = "heads=2,kv_heads=1,interleaved=True,data_type=1"
BESIDE = "batch=3,seq=17,alpha=0.2,original=8,past=(0,3,20),cache=beside,lengths=(17,0,5)"
FULL = "batch=2,seq=9,data_type=1,past=(4,30),cache=instead,room=-3"


def changed(old: str, new: str) -> Change:
    return Change(file=FILE, old=old, new=new, sources=(FILE,))


MUTANTS = [
    Mutant(
        name="the sine's sign",
        change=changed("fromFloat<T>(b * cosine + a * sine)", "fromFloat<T>(b * cosine - a * sine)"),
        cases=("past=(77,)", INTERLEAVED),
    ),
    Mutant(
        name="one sine for a whole vector",
        change=changed("tables.sine[pair]", "tables.sine[pair - i]"),
        cases=("past=(77,)", "seq=9,head_dim=192,data_type=1,attention_factor=1.1"),
    ),
    Mutant(
        name="interleaved pairs by the half-split's index",
        change=changed("item * (kVec / 2) + i", "item * kVec + i"),
        cases=(INTERLEAVED, "seq=5,heads=3,kv_heads=1,head_dim=576,interleaved=True"),
        report=NOT_WRITTEN,
    ),
    Mutant(
        name="no temperature",
        change=changed("p.original_max_position > 0 && position", "p.original_max_position < 0 && position"),
        cases=("seq=1000,heads=2,kv_heads=1,alpha=0.1,original=256", FAR),
    ),
    Mutant(
        name="a temperature of the position alone",
        change=changed("logf(pos / static_cast<float>(p.original_max_position))", "logf(pos)"),
        cases=("batch=2,seq=3,data_type=0,alpha=0.3,original=16,past=(14,15)", FAR),
    ),
    Mutant(
        name="no attention factor",
        change=changed("float factor = p.attention_factor;", "float factor = 1.0F;"),
        cases=("seq=9,head_dim=192,data_type=1,attention_factor=1.1",),
    ),
    Mutant(
        name="the angle's rounding kept",
        change=changed("(along * cosine - rest * sine) * factor", "cosine * factor"),
        cases=(FAR,),
    ),
    Mutant(
        name="the first row's past for all",
        change=changed("p.past_len[b] + s;", "p.past_len[0] + s;"),
        cases=("batch=3,seq=5,interleaved=True,alpha=0.1,original=64,past=(0,7,100000)",),
    ),
    Mutant(
        name="tables one pair short",
        change=changed("i < p.rotary_dim / 2; i += kThreads", "i < p.rotary_dim / 2 - 1; i += kThreads"),
        cases=("seq=1,past=(77,)", "seq=9,head_dim=20,rotary_dim=6"),
        report=NOT_WRITTEN,
    ),
    overflow(
        "the rest of a head at the wrong place",
        changed("p.rotary_dim + (item - rotated(p)) * kVec", "p.rotary_dim + item * kVec"),
        "seq=9,head_dim=192,interleaved=True,data_type=0",
    ),
    Mutant(
        name="padding in the cache",
        change=changed("s < p.seq_len[b]", "s <= p.seq_len[b]"),
        cases=(BESIDE,),
    ),
    overflow(
        "one slot more than the cache has",
        changed("position < p.cache_capacity;", "position <= p.cache_capacity;"),
        FULL,
    ),
    Mutant(
        name="all heads in the first head's cache",
        change=changed(
            "(token / p.seq * p.kv_heads + kv_head) * p.cache_capacity",
            "token / p.seq * p.kv_heads * p.cache_capacity",
        ),
        cases=(BESIDE, FULL),
    ),
    Mutant(
        name="the first piece for all of a thread's",
        change=changed(
            "index += step;\n    if (index < pieces) piece.load(p, token, index);", "index += step;"
        ),
        cases=("seq=520,heads=40,head_dim=128,rotary_dim=128,in_place=True",),
    ),
    race(
        "no barrier before the tables are read",
        changed("fillTables(p, position, tables);\n  __syncthreads();", "fillTables(p, position, tables);"),
        "past=(77,)",
    ),
]
