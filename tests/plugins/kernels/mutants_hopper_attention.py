"""Defects of Hopper's own attention kernels, which the cases find on the host layer."""

from __future__ import annotations

from kernels.build import Change
from kernels.library import EAGER, LATE
from kernels.mutant import RACE, WRONG, Mutant, Schedules

FOLDER = "hla_attention"
SOURCES = {
    "hopper_latent_tile.cuh": "hopper_latent.cu",
    "hopper_latent_work.cuh": "hopper_latent.cu",
    "hopper_keys.cuh": "hopper_full.cu",
    "hopper_prefill_tile.cuh": "hopper_full.cu",
    "hopper_softmax.cuh": "hopper_full.cu",
}
LATENT = "seq=1,heads=16,qk=576,v=512,lam=none,past=(530,)"
TILES = "seq=1,heads=128,qk=576,v=512,lam=none,past=(191,),num_sms=1"
FULL = "seq=300,lam=none"
BLOCK = "seq=1000,heads=1,inter_block=1,lam=zeros"
BOTH = "seq=1000,heads=1,num_sms=1"
ENDLESS = "deadlock: no thread can run"
COPIES_AT_ONCE: Schedules = ((0, EAGER),)


def planted(
    name: str,
    file: str,
    old: str,
    new: str,
    case: str,
    *,
    report: str = WRONG,
    schedules: Schedules = ((0, LATE),),
    long: bool = False,
) -> Mutant:
    """A change of a kernel."""
    source = file if file.endswith(".cu") else SOURCES.get(file, file.replace(".cuh", ".cu"))
    change = Change(file=f"{FOLDER}/{file}", old=old, new=new, sources=(f"{FOLDER}/{source}",))
    return Mutant(
        name=name, change=change, cases=(case,), report=report, schedules=schedules, hopper=True, long=long,
        sanitizer="tsan" if report == RACE else "plain",
    )  # fmt: skip


def race(name: str, file: str, old: str, new: str, case: str, *, long: bool = False) -> Mutant:
    """A lost barrier, or one in the wrong place."""
    return planted(name, file, old, new, case, report=RACE, schedules=COPIES_AT_ONCE, long=long)


OWN_READ = "  waitProducts<0>();\n  holdWeights(sums.p);\n  holdRegisters(sums.o);\n"
VALUES_READ = """  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  if (lane.leads) arrive(&shared.values_empty[at.values.index]);
  at.values.advance();
  rescale"""

LATENT_MUTANTS = [
    race(
        "weights are given away before they are stored",
        "hopper_latent_tile.cuh",
        "  storeWeights(shared, place, sums);\n",
        "  arrive(&shared.given[place.warpgroup]);\n"
        "  storeWeights(shared, place, sums);\n  if (place.warpgroup >= 0) return;\n",
        LATENT,
    ),
    race(
        "weights are taken before they are given",
        "hopper_latent_tile.cuh",
        "  wait(&shared.given[place.warpgroup ^ 1], tile / 2 % 2);\n",
        "",
        LATENT,
    ),
    race(
        "stored weights are not fenced from products",
        "hopper_latent_tile.cuh",
        "  fenceStores();\n  arrive(&shared.given",
        "  arrive(&shared.given",
        LATENT,
    ),
    race(
        "a row's m is overwritten while the row's lanes read it",
        "hopper_latent_tile.cuh",
        "  __syncwarp();  // a row's four lanes have read m\n",
        "",
        LATENT,
        long=True,
    ),
    race(
        "sums are exchanged without a barrier",
        "hopper_latent_tile.cuh",
        "  syncSome<kConsumersBarrier, kConsumers>();\n",
        "",
        LATENT,
        long=True,
    ),
    race(
        "values behind the end become 0 without a barrier behind",
        "hopper_latent_tile.cuh",
        "  fenceStores();\n  syncSome<kWarpgroup>(kWarpgroupBarrier + place.warpgroup);\n",
        "  fenceStores();\n",
        LATENT,
        long=True,
    ),
    planted(
        "weights are awaited at one's own barrier",
        "hopper_latent_tile.cuh",
        "shared.given[place.warpgroup ^ 1]",
        "shared.given[place.warpgroup]",
        LATENT,
        report=ENDLESS,
    ),
    planted(
        "scores do not wait for their keys",
        "hopper_latent_tile.cuh",
        "    wait(&shared.full[stage.index][part], stage.parity);\n",
        "",
        LATENT,
        report="lacks 0 arrivals, 32768 bytes",
        long=True,
    ),
    planted(
        "keys are loaded in the wrong phase",
        "hopper_latent_work.cuh",
        "stage.parity ^ 1);",
        "stage.parity);",
        LATENT,
        report=ENDLESS,
    ),
    planted(
        "values are given back under the product",
        "hopper_latent_tile.cuh",
        OWN_READ,
        "  if (place.warpgroup < 2) {\n    giveBack(shared, place, tile, place.warpgroup);\n"
        "    waitProducts<0>();\n    return;\n  }\n",
        TILES,
        schedules=COPIES_AT_ONCE,
    ),
    planted(
        "given values are given back under their product",
        "hopper_latent_tile.cuh",
        "  waitProducts<1>();\n  endGiven",
        "  waitProducts<2>();\n  endGiven",
        TILES,
        schedules=COPIES_AT_ONCE,
        long=True,
    ),
    planted(
        "scores are read under their products",
        "hopper_latent_tile.cuh",
        "  waitProducts<0>();\n  endScores<T>(call, shared, place, tile, sums, decay);\n",
        "  endScores<T>(call, shared, place, tile, sums, decay);\n",
        LATENT,
        long=True,
    ),
    planted(
        "the key behind a row's last one is seen",
        "hopper_latent_tile.cuh",
        "i % 2 > place.last[i / 2 % 2]",
        "i % 2 > place.last[i / 2 % 2] + 1",
        "seq=5,heads=8,qk=576,v=512,lam=none,past=(60,)",
    ),
    planted(
        "values behind the last key stay as they are",
        "hopper_latent_tile.cuh",
        "  if (keys >= kKeys) return;\n",
        "  if (keys != 0) return;\n",
        "batch=2,seq=1,heads=4,qk=576,v=512,lam=none,past=(300,64),room=11",
    ),
    planted(
        "weights lie without the swizzle",
        "hopper_latent_tile.cuh",
        "(vector ^ (row % kSwizzleRows)) * 16",
        "vector * 16",
        LATENT,
    ),
    planted(
        "groups of the values' columns are too near",
        "hopper_latent_tile.cuh",
        "step * 16, kGroupBytes)",
        "step * 16, kGroupBytes / 2)",
        LATENT,
        long=True,
    ),
]

PREFILL_MUTANTS = [
    planted(
        "scores of the full branch do not wait for their keys",
        "hopper_keys.cuh",
        """  wait(&shared.keys_full[at.keys.index], at.keys.parity);
  wait(&shared.values_full[at.values.index], at.values.parity);
""",
        "  wait(&shared.values_full[at.values.index], at.values.parity);\n",
        FULL,
        long=True,
    ),
    planted(
        "the last values are not awaited",
        "hopper_keys.cuh",
        "  wait(&shared.values_full[at.values.index], at.values.parity);\n"
        "  sight.clear(shared, at.values.index, 0);",
        "  sight.clear(shared, at.values.index, 0);",
        FULL,
        long=True,
    ),
    planted(
        "values of the full branch are given back under their product",
        "hopper_keys.cuh",
        VALUES_READ,
        """  if (lane.leads) arrive(&shared.values_empty[at.values.index]);
  waitProducts<0>();
  holdWeights(sums.p);
  holdRegisters(sums.o);
  at.values.advance();
  rescale""",
        BOTH,
        schedules=COPIES_AT_ONCE,
    ),
    planted(
        "weights are changed under the product that reads them",
        "hopper_keys.cuh",
        VALUES_READ,
        "  packWeights<typename Tile::T>(sums.s, sums.p);\n" + VALUES_READ,
        FULL,
        schedules=COPIES_AT_ONCE,
    ),
    planted(
        "the other warpgroup never gets its turn",
        "hopper_keys.cuh",
        "giveTurn(lane.warpgroup ^ 1)",
        "giveTurn(lane.warpgroup)",
        FULL,
        report=ENDLESS,
        long=True,
    ),
    race(
        "zeros of values are not fenced from products",
        "hopper_prefill_tile.cuh",
        "  fenceStores();\n  syncSome",
        "  syncSome",
        "seq=70,lam=none,past=(14,)",
        long=True,
    ),
    race(
        "zeros of values are published without a barrier",
        "hopper_prefill_tile.cuh",
        "  fenceStores();\n  syncSome<kConsumersBarrier, 2 * kWarpgroup>();\n",
        "  fenceStores();\n",
        FULL,
        long=True,
    ),
    planted(
        "values that nobody wrote stay as they are",
        "hopper_full.cuh",
        "if ((tile + 1) * kKeys <= written) return;",
        "if (written != 0) return;",
        "seq=200,lam=ones,room=9",
        long=True,
    ),
    planted(
        "a token sees the next one",
        "hopper_full.cuh",
        "bitsBelow(last[i / kWords] + 1 - tile",
        "bitsBelow(last[i / kWords] + 2 - tile",
        FULL,
    ),
    planted(
        "columns of values lie too near",
        "hopper_softmax.cuh",
        "rowsDescriptor(v[0], step * 16, kGroupBytes)",
        "rowsDescriptor(v[0], step * 16, kGroupBytes / 2)",
        "seq=70,kv_heads=2,qk=192,v=128,lam=none,past=(10,),data_type=1",
        long=True,
    ),
    planted(
        "the full branch does not wait for the block branch",
        "hopper_full.cu",
        "  waitForLastGrid();\n",
        "",
        BOTH,
        report="never waited for the kernel before",
        long=True,
    ),
    planted(
        "keys of the block branch are loaded in the wrong phase",
        "hopper_block.cuh",
        "wait(&shared.keys_empty[stage], at.keys.parity ^ 1);",
        "wait(&shared.keys_empty[stage], at.keys.parity);",
        BLOCK,
        report=ENDLESS,
    ),
    planted(
        "a stage of the block branch expects too few bytes",
        "hopper_block.cuh",
        "arriveExpecting(full, kGroups * kGroupBytes);\n#pragma unroll 1",
        "arriveExpecting(full, kGroups * kGroupBytes / 2);\n#pragma unroll 1",
        BLOCK,
    ),
    planted(
        "boxes of keys overlap",
        "hopper_block.cuh",
        "stage[group] + box * kBoxKeys * kSwizzleBytes",
        "stage[group] + box / 2 * 2 * kBoxKeys * kSwizzleBytes",
        BLOCK,
        long=True,
    ),
    planted(
        "queries of the block branch are overwritten while they are read",
        "hopper_block.cuh",
        "  wait(&shared.queries_empty[place], at.queries.parity ^ 1);\n",
        "",
        BOTH,
        report=ENDLESS,
        schedules=COPIES_AT_ONCE,
    ),
    planted(
        "values behind the last first token stay as they are",
        "hopper_block.cuh",
        "if (!unwritten.among(first, kKeys)) return;",
        "if (first >= 0) return;",
        "seq=330,heads=8,block=16,inter_block=1,past=(77,),room=11",
        long=True,
    ),
    race(
        "the list of rounds is read while it is written",
        "hopper_block.cu",
        "blockIdx.x), needed);\n  __syncthreads();\n",
        "blockIdx.x), needed);\n",
        BOTH,
        long=True,
    ),
]

MUTANTS = [*LATENT_MUTANTS, *PREFILL_MUTANTS]
