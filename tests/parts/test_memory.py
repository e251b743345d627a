"""Memory of parts that run in turn: no more than those that may be there together, and their caches."""

from __future__ import annotations

from pathlib import Path

from benchmark_parts_memory import in_process, page, rooms
from split_models import split_model
from tiny_checkpoints import write_llama

from r1trt.artifacts.build import BuildArtifact
from r1trt.runtime.residency import residency

PARTS = 5
SIZES = {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": PARTS, "num_attention_heads": 8}
CALLS_BYTES = 8_000_000
"""What a call computes, and threads."""


def test_peaks_are_bounded_and_tokens_equal(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, max_position_embeddings=512, **SIZES)
    model = split_model(checkpoint, tmp_path, PARTS, capacity=256)
    engine = model.engine(PARTS, max_input_len=128, max_batch_size=1)
    sizes = [path.stat().st_size for path in sorted(engine.glob("part-*/weights.safetensors"))]
    caches = BuildArtifact.read(engine).manifest.kv_cache_bytes
    rows = {}
    for name, room in rooms(sizes, caches).items():
        bound = residency(sizes, room - caches).bytes(sizes) + caches
        rows[name] = in_process(engine, room, 1) | {"bound": bound}
    assert len({str(row["tokens"]) for row in rows.values()}) == 1
    one, two, every = (row["peaks"]["anonymous"] for row in rows.values())
    bounds = [row["bound"] for row in rows.values()]
    assert one <= bounds[0] + CALLS_BYTES and two <= bounds[1] + CALLS_BYTES
    assert one < every / 2
    document = {"model": "a Llama", "date": "", "machine": {"cpu": ""}, "part_bytes": sizes}
    assert page(document | {"cache_bytes": caches, "rows": rows}).count("\n| ") == 1 + len(rows)
