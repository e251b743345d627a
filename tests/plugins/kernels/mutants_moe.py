"""Defects of R1DynamicMoE's kernels."""

from __future__ import annotations

from kernels.build import Change
from kernels.mutant import PADDING, Mutant, overflow, race

FOLDER = "dynamic_moe/"
GEMM_16BIT, GEMM_FP8, GEMM_WIDENED = "gemm_16bit.cu", "gemm_fp8.cu", "gemm_widened.cu"
MANY = "seq=127"
LENGTHS = "batch=3,seq=20,shared_width=32,lengths=(20,0,7)"
EQUAL = "seq=20,hidden=32,experts=64,width=16,top_k=5,routing=equal"
EQUAL_GROUPS = "seq=20,experts=16,top_k=6,method=2,n_group=4,topk_group=2,routing=equal"
GROUPS = (
    "seq=48,hidden=96,experts=32,width=144,shared_width=160,top_k=8,"
    "sigmoid=True,method=2,scaling=2.5,n_group=8,topk_group=4"
)
ADAPTIVE = "seq=40,experts=16,top_k=6,top_k_min=2,threshold=0.6"
SIGMOID = "seq=40,experts=16,top_k=4,threshold=0.5,sigmoid=True,bias=False,scaling=1.5"
BLOCKS = "seq=80,hidden=272,width=256,shared_width=128,data_type=1,weight_type=3,layout=2"
CHANNELS = "seq=80,hidden=272,width=144,shared_width=48,weight_type=3,layout=1,static=True"
FP8 = "hidden=272,width=144,shared_width=48,weight_type=3"
WIDENED = "hidden=144,width=144,shared_width=48,weight_type=3,sm=80"
NEAR = "top_k=1,routing=near"
LANES_OF_A_GROUP = (
    "seq=5,hidden=256,experts=256,width=32,top_k=8,sigmoid=True,method=2,scaling=2.5,n_group=8,topk_group=4"
)
TOKENS_OF_A_WARP = "seq=4100,hidden=16,experts=24,width=16,top_k=1,method=1,n_group=4,topk_group=2"
PASSES = "seq=8200,hidden=144,experts=24,width=16,top_k=1,method=1,n_group=4,topk_group=2"
MANY_LOGITS = "seq=66,hidden=400,experts=65,width=16,top_k=8"
GROUPED = "seq=1,experts=16,shared_width=48"
GROUPED_PARTS = "seq=40,experts=16,parts=5,shared_width=48,top_k=6"
GROUPED_TILES = "seq=300,experts=4,shared_width=48,data_type=1"
TWO_TILES = "seq=300,hidden=80,experts=3,width=272,top_k=3"


def changed(file: str, old: str, new: str, *sources: str) -> Change:
    """A change of a source, or of a header that `sources` include."""
    compiled = sources or (file,)
    return Change(file=FOLDER + file, old=old, new=new, sources=tuple(FOLDER + source for source in compiled))


def selected(old: str, new: str) -> Change:
    """A change of the selection of one token."""
    return changed("select.cuh", old, new, "router.cu")


ROUTER = [
    Mutant(
        name="ties to the later expert",
        change=selected(
            "orderKey(taken ? selection[i] : -INFINITY)",
            "orderKey(taken ? selection[i] + 1e-7F * (lane * kPerLane + i) : -INFINITY)",
        ),
        cases=(EQUAL, "seq=40,experts=16,top_k=3,norm=False,routing=ties"),
    ),
    Mutant(
        name="ties to a lane's later expert",
        change=selected("swap = key[i] < key[i + 1];", "swap = key[i] <= key[i + 1];"),
        cases=(EQUAL,),
    ),
    Mutant(
        name="ties to the later group",
        change=selected("(g + 1) * lanes <= lane", "g * lanes > lane"),
        cases=(EQUAL_GROUPS,),
    ),
    Mutant(
        name="a group's score by one expert",
        change=selected("one ? top.first : top.first + top.second", "top.first"),
        cases=(GROUPS,),
    ),
    Mutant(
        name="a group's second score from one lane",
        change=selected("top.second = fmaxf(top.second, second);", ""),
        cases=(LANES_OF_A_GROUP,),
    ),
    Mutant(
        name="candidates by their place among all groups",
        change=selected("source[place] = lane;", "source[place] = place;"),
        cases=(LANES_OF_A_GROUP,),
    ),
    Mutant(
        name="groups where there are none to choose",
        change=selected(
            "params.topk_method != TopkMethod::kGreedy && params.n_group > 1", "params.n_group > 1"
        ),
        cases=("seq=40,experts=16,top_k=3,n_group=4,topk_group=2",),
    ),
    Mutant(
        name="the bias in the weights",
        change=selected(
            "  storeLane(memory, lane, score);\n  uint32_t key[kPerLane];",
            "  storeLane(memory, lane, selection);\n  uint32_t key[kPerLane];",
        ),
        cases=(GROUPS,),
    ),
    Mutant(
        name="a threshold of an absolute weight",
        change=selected("before < p.adaptive_threshold * total", "before < p.adaptive_threshold"),
        cases=(ADAPTIVE, SIGMOID),
    ),
    Mutant(
        name="one expert less than the fewest",
        change=selected("(lane < p.top_k_min ||", "(lane < p.top_k_min - 1 ||"),
        cases=("seq=40,experts=32,top_k=6,top_k_min=3,threshold=0.2",),
    ),
    Mutant(
        name="normalization by all candidates",
        change=selected("float sum = kept ? score : 0.0F;", "float sum = score;"),
        cases=(ADAPTIVE, SIGMOID),
    ),
    Mutant(
        name="no scaling factor",
        change=selected("kept ? weight * p.routed_scaling_factor : 0.0F", "kept ? weight : 0.0F"),
        cases=(SIGMOID, GROUPS),
    ),
    Mutant(
        name="logits of one slice less",
        change=selected(
            "s < p.slices ? part[s].value[j] : 0.0F", "s < p.slices - 1 ? part[s].value[j] : 0.0F"
        ),
        cases=("seq=21,hidden=208,experts=6,method=2,n_group=3",),
    ),
    Mutant(
        name="logits of two parts of the weights",
        change=changed("router_logits.cuh", "kWeightParts = 3", "kWeightParts = 2", "router_logits.cu"),
        cases=(NEAR,),
    ),
    Mutant(
        name="logits of half an FP16 number",
        change=changed(
            "router_logits.cuh", "kInputParts<__half> = 2", "kInputParts<__half> = 1", "router_logits_many.cu"
        ),
        cases=("seq=270,hidden=528,experts=40,width=16,data_type=1",),
    ),
    Mutant(
        name="logits of the first 32 stretches of a slice",
        change=changed("router_logits.cu", "first += kRound", "first += 1 << 20"),
        cases=("seq=3,hidden=8272,experts=4,width=16,top_k=1,norm=False",),
    ),
    Mutant(
        name="logits of the last slice alone",
        change=changed("router_logits_many.cu", "logits, stretch > share, sum", "logits, false, sum"),
        cases=(PASSES,),
    ),
    overflow(
        "logits of experts that are not there",
        changed("router_logits.cu", "inside && expert0 + group < p.experts);", "inside);"),
        "seq=21,hidden=208,experts=6,method=2,n_group=3",
    ),
    overflow(
        "many logits of experts that are not there",
        changed(
            "router_logits_many.cu",
            "if (expert < p.experts && column < p.hidden) {\n      float const",
            "if (column < p.hidden) {\n      float const",
        ),
        MANY_LOGITS,
    ),
]

ROWS = [
    Mutant(
        name="ranks by the block, not the token",
        change=changed("router.cu", "__popc(shared.mask[word][e] & earlier)", "__popc(shared.mask[word][e])"),
        cases=(MANY, "seq=70,top_k=1,data_type=1,routing=one_expert"),
    ),
    Mutant(
        name="ranks among 32 tokens",
        change=changed("router.cu", "t >= (word + 1) * 32 ? kAllLanes", "t >= (word + 1) * 32 ? 0"),
        cases=(PASSES,),
    ),
    Mutant(
        name="ranks of one pass",
        change=changed("router.cu", "int rank = shared.earlier[e];", "int rank = 0;"),
        cases=(PASSES,),
    ),
    Mutant(
        name="padding that is routed",
        change=changed("router.cu", "(index - row * seq) < p.seq_len", "(index - row * seq) <= p.seq_len"),
        cases=(LENGTHS,),
        report=PADDING,
    ),
    Mutant(
        name="a scan that leaves out the first expert",
        change=changed("router.cu", "lane >= distance) sum +=", "lane > distance) sum +="),
        cases=(MANY, TWO_TILES),
    ),
    Mutant(
        name="every router block's rows at the expert's first",
        change=changed("router.cu", "layout.first[e] = first + before;", "layout.first[e] = first;"),
        cases=(MANY,),
    ),
    Mutant(
        name="a router block's own rows before it",
        change=changed(
            "router.cu",
            "kRowsWarps < static_cast<int>(blockIdx.x)",
            "kRowsWarps <= static_cast<int>(blockIdx.x)",
        ),
        cases=(MANY,),
    ),
    Mutant(
        name="a tile of the expert before",
        change=changed("router.cu", "tile_expert[tile] = e;", "tile_expert[tile] = e > 0 ? e - 1 : e;"),
        cases=(MANY, TWO_TILES),
    ),
    Mutant(
        name="tiles for full ones only",
        change=changed(
            "dynamic_moe.cu",
            "return layer.rows / layer.tile_rows + partial + shared;",
            "return layer.rows / layer.tile_rows + shared;",
        ),
        cases=(MANY, TWO_TILES),
    ),
    overflow(
        "a piece of the workspace that is too small",
        changed(
            "dynamic_moe.cu",
            "w.out = memory.take<char>(rows * p.hidden * 2);",
            "w.out = memory.take<char>(rows * p.hidden * 2 - 1024);",
        ),
        MANY,
    ),
    Mutant(
        name="the first row dropped",
        change=changed("permute.cu", "if (rows[k] < 0) continue;", "if (rows[k] <= 0) continue;"),
        cases=("seq=1", MANY),
    ),
    Mutant(
        name="the first expert's weight for all",
        change=changed(
            "permute.cu",
            "p.routing.weight[token * p.top_k + k] : 0.0F",
            "p.routing.weight[token * p.top_k] : 0.0F",
        ),
        cases=(MANY, ADAPTIVE),
    ),
    Mutant(
        name="tiles for the experts' rows alone",
        change=changed("dynamic_moe.cu", "+ partial + shared;", "+ partial;"),
        cases=(GROUPED_TILES,),
    ),
    Mutant(
        name="the shared expert's rows at the first",
        change=changed(
            "permute.cu", "*p.shared_row + static_cast<int32_t>(token)", "static_cast<int32_t>(token)"
        ),
        cases=(GROUPED, GROUPED_TILES),
    ),
    Mutant(
        name="the shared expert's output at the token's row",
        change=changed("permute.cu", "(p.shared_row != nullptr ? *p.shared_row : 0)", "0"),
        cases=(GROUPED, GROUPED_TILES),
    ),
    Mutant(
        name="the shared expert with the last expert's weights",
        change=changed(
            "stages.cuh",
            "group < experts ? placeOfExpert(group, experts, parts) : ExpertPlace{parts, 0}",
            "placeOfExpert(group < experts ? group : experts - 1, experts, parts)",
            "gemm_16bit.cu",
        ),
        cases=(GROUPED, GROUPED_PARTS),
    ),
    Mutant(
        name="no tiles for the shared expert",
        change=changed("router.cu", "p.params.experts + (p.shared_rows > 0 ? 1 : 0)", "p.params.experts"),
        cases=(GROUPED, GROUPED_TILES),
    ),
    Mutant(
        name="a shared expert for padding",
        change=changed("permute.cu", "p.shared_out != nullptr && real", "p.shared_out != nullptr"),
        cases=(LENGTHS,),
        report=PADDING,
    ),
]

SCALES = [
    Mutant(
        name="a scale of 64 neighbours",
        change=changed("quantize.cuh", "distance < 8", "distance < 4", "permute.cu", GEMM_FP8),
        cases=(FP8, BLOCKS),
    ),
    Mutant(
        name="the first block's scale along a row of weights",
        change=changed(
            "grouped_gemm.cuh",
            "down + row) * across + k_block]",
            "down + row) * across]",
            GEMM_FP8,
            GEMM_WIDENED,
        ),
        cases=(BLOCKS, "seq=80,hidden=272,width=256,data_type=1,weight_type=3,layout=2,math=2"),
    ),
    Mutant(
        name="the gate's scales for the up projection",
        change=changed(
            "grouped_gemm.cuh",
            "(static_cast<int64_t>(half) * g.n + work.column0) / kScaleBlock",
            "work.column0 / kScaleBlock",
            GEMM_FP8,
        ),
        cases=(BLOCKS,),
    ),
    Mutant(
        name="the gate's channels for the up projection",
        change=changed(
            "grouped_gemm.cuh", "halves + half) * g.n + column]", "halves) * g.n + column]", GEMM_FP8
        ),
        cases=(CHANNELS,),
    ),
    Mutant(
        name="another row's activation scale",
        change=changed(
            "grouped_gemm.cuh",
            "g.a.scale[(work.row0 + row) * scaleBlocks(g.k) + k_block]",
            "g.a.scale[row * scaleBlocks(g.k) + k_block]",
            GEMM_FP8,
        ),
        cases=(FP8, BLOCKS),
    ),
    Mutant(
        name="no static scale of the activations",
        change=changed(
            "grouped_gemm.cuh",
            "g.a_scale != nullptr && !Operands::kWidened ? *g.a_scale : 1.0F",
            "1.0F",
            GEMM_FP8,
        ),
        cases=(CHANNELS,),
    ),
    Mutant(
        name="the first expert's scale for all",
        change=changed(
            "grouped_gemm.cuh",
            "a * work.weight.scale[work.expert];",
            "a * work.weight.scale[0];",
            GEMM_FP8,
            GEMM_WIDENED,
        ),
        cases=(FP8, WIDENED),
    ),
]

GEMM = [
    Mutant(
        name="partial sums that replace the total",
        change=changed(
            "grouped_gemm.cuh", "total[m][half][n][i] += partial", "total[m][half][n][i] = partial", GEMM_FP8
        ),
        cases=(FP8, BLOCKS),
    ),
    Mutant(
        name="no activation function",
        change=changed("grouped_gemm.cuh", "value = silu(value) * (", "value = value * (", GEMM_16BIT),
        cases=(MANY,),
    ),
    Mutant(
        name="columns beyond the last one of k",
        change=changed("load_rows.cuh", " && column0 + group < from.pitch;", ";", GEMM_16BIT),
        cases=(MANY, TWO_TILES),
    ),
    overflow(
        "weights beyond the last row",
        changed("load_rows.cuh", "row < from.rows && column0", "column0", GEMM_16BIT),
        "seq=9,experts=1,shared_width=16,top_k=1",
    ),
    overflow(
        "rows of the next expert overwritten",
        changed(
            "grouped_gemm.cuh",
            "bool const valid = row < work.rows && column < g.n;",
            "bool const valid = column < g.n;",
            GEMM_16BIT,
        ),
        MANY,
    ),
    Mutant(
        name="activations in another lane's place",
        change=changed(
            "grouped_gemm.cuh",
            "chunk = step * 4 + part * 2 + lane % 4 / 2;",
            "chunk = step * 4 + part * 2 + lane % 2;",
            GEMM_WIDENED,
        ),
        cases=(WIDENED,),
    ),
    Mutant(
        name="weights in another lane's place",
        change=changed(
            "grouped_gemm.cuh",
            "warp_column + n * 8 + lane % 8 + lane / 16 * 8;",
            "warp_column + n * 8 + lane % 16;",
            GEMM_16BIT,
        ),
        cases=(MANY,),
    ),
    Mutant(
        name="no wait for a stage",
        change=changed("grouped_gemm.cuh", "copyWait<kStages - 2>();", "", GEMM_16BIT),
        cases=(MANY,),
    ),
]

SWIGLU = [
    Mutant(
        name="up before gate",
        change=changed("swiglu.cu", "silu(value[i]) * up[i]", "silu(up[i]) * value[i]"),
        cases=("seq=127,shared_width=16,swiglu=2",),
    ),
    Mutant(
        name="the gate's own numbers for up",
        change=changed("swiglu.cu", "row + width + column, up", "row + column, up"),
        cases=("seq=127,shared_width=16,swiglu=2",),
    ),
    Mutant(
        name="the last expert's rows left out",
        change=changed("swiglu.cu", "layer.groups(), p.width", "layer.groups() - 1, p.width"),
        cases=("seq=127,shared_width=16,swiglu=2",),
    ),
]

PARTED = "seq=70,hidden=144,experts=7,parts=3,width=144,shared_width=48,weight_type=3,layout=1"
PARTS = [
    Mutant(
        name="an expert by its number in the layer",
        change=changed(
            "stages.cuh",
            "(expert - boundary) / small, (expert - boundary) % small}",
            "(expert - boundary) / small, expert % small}",
            GEMM_FP8,
        ),
        cases=(PARTED,),
    ),
    Mutant(
        name="a larger part as if it were a smaller one",
        change=changed("stages.cuh", "expert % (small + 1)};", "expert % small};", GEMM_FP8),
        cases=(PARTED,),
    ),
    Mutant(
        name="every expert from part 0",
        change=changed("grouped_gemm.cuh", "g.weight[place.part]", "g.weight[0]", GEMM_FP8),
        cases=(PARTED,),
    ),
]

BARRIERS = [
    race(
        "no barrier when a stage has landed",
        changed(
            "grouped_gemm.cuh",
            "__syncthreads();  // this stage has landed for all; the one before it is free",
            "",
            GEMM_16BIT,
        ),
        MANY,
        long=True,
    ),
    race(
        "no barrier before the output is staged",
        changed(
            "grouped_gemm.cuh",
            "copyWait<0>();\n  __syncthreads();\n  auto* const out",
            "copyWait<0>();\n  auto* const out",
            GEMM_16BIT,
        ),
        MANY,
        long=True,
    ),
    race(
        "no barrier inside the scan",
        changed("router.cu", "warp_sum[warp] = sum;\n  }\n  __syncthreads();", "warp_sum[warp] = sum;\n  }"),
        MANY,
    ),
    race(
        "no barrier before the next token's scores",
        selected("__syncwarp();  // the scores are read before the next token's overwrite them", ""),
        TOKENS_OF_A_WARP,
        long=True,
    ),
    race(
        "no barrier before scores overwrite keys",
        selected("__syncwarp();  // the keys are read before the scores overwrite them", ""),
        LANES_OF_A_GROUP,
    ),
    race(
        "no barrier before the warps' logits are summed",
        changed(
            "router_logits.cu",
            "last_column, shared);\n    __syncthreads();",
            "last_column, shared);",
        ),
        "seq=31",
    ),
    race(
        "no barrier when a stage of logits has landed",
        changed(
            "router_logits_many.cu",
            "__syncthreads();  // this stage has landed for all, and nobody reads the other any more",
            "",
        ),
        MANY_LOGITS,
    ),
]

MUTANTS = [*ROUTER, *ROWS, *SCALES, *GEMM, *SWIGLU, *PARTS, *BARRIERS]
