"""The benchmark of exports at full size: its sparse checkpoints, and a run on a tiny one."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fp8_checkpoints import QUANTIZATION
from scripts_under_test import REPOSITORY, run_script

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.estimate.known_models import KNOWN_MODELS

SCRIPTS = REPOSITORY / "scripts"
TINY: dict[str, Any] = {
    **KNOWN_MODELS["r1-671b"],
    "vocab_size": 320,
    "hidden_size": 200,
    "intermediate_size": 136,
    "moe_intermediate_size": 136,
    "num_hidden_layers": 2,
    "first_k_dense_replace": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 72,
    "kv_lora_rank": 136,
    "n_routed_experts": 16,
    "quantization_config": QUANTIZATION,
}


@pytest.fixture(scope="module")
def sparse() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield importlib.import_module("sparse_checkpoint")
        sys.modules.pop("sparse_checkpoint", None)


def test_r1_has_the_tensors_that_it_is_published_with(sparse: ModuleType) -> None:
    tensors = sparse.sparse_tensors({**KNOWN_MODELS["r1-671b"], "quantization_config": QUANTIZATION})
    scales = [tensor for tensor in tensors if tensor.is_scale]
    assert len({tensor.name for tensor in tensors}) == len(tensors) == 91_991
    assert sum(tensor.size for tensor in scales) == 166_161_984
    assert all(tensor.dtype == "F32" for tensor in scales)
    last = {tensor.name: tensor for tensor in tensors if tensor.name.startswith("model.layers.61.")}
    assert last["model.layers.61.eh_proj.weight"].dtype == "BF16"
    assert last["model.layers.61.shared_head.head.weight"].shape == (129280, 7168)
    assert last["model.layers.61.mlp.experts.255.down_proj.weight_scale_inv"].shape == (56, 16)


def test_a_sparse_checkpoint_is_whole(sparse: ModuleType, tmp_path: Path) -> None:
    raw = {**TINY, "hidden_size": 4096, "moe_intermediate_size": 2048}
    figures = sparse.write_sparse_checkpoint(tmp_path / "checkpoint", raw, 3)
    checkpoint = checkpoint_from_dir(tmp_path / "checkpoint")
    held = [tensor for file in checkpoint.files for tensor in file.tensors]
    assert (figures["shards"], figures["tensors"]) == (len(checkpoint.files), len(held)) == (3, len(held))
    assert sum(tensor.length for tensor in held) == figures["bytes"]
    assert sum(scale.length for scale in checkpoint.scales.values()) < figures["scale_bytes"]
    assert figures["bytes_on_disk"] < figures["bytes"] / 50
    for ref in checkpoint.scales.values():
        data = (tmp_path / "checkpoint" / ref.file).open("rb")
        with data:
            data.seek(ref.offset)
            values = np.frombuffer(data.read(ref.length), "<f4")
        assert np.isfinite(values).all() and (values > 0).all()


def test_too_little_room_is_refused_with_figures(sparse: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"too little room: [\d.]+ GB are free, and 1000000000\.27 GB"):
        sparse.check_room(tmp_path, holes=0, written=10**18)
    assert not list(tmp_path.iterdir())


def test_it_measures_and_removes_what_it_wrote(tmp_path: Path) -> None:
    config, work, reports = tmp_path / "config.json", tmp_path / "work", tmp_path / "reports"
    config.write_text(json.dumps(TINY), encoding="utf-8")
    places = ("--work-dir", work, "--report-dir", reports)
    script = SCRIPTS / "benchmark_r1_export.py"
    result = run_script(script, "--shapes", config, *places, "--note", "Tests ran.", "--json")
    assert result.returncode == 0, result.stderr
    (row,) = json.loads(result.stdout)["measurements"]
    assert row["seconds"] > 0 and row["cpu_seconds"] > 0 and row["peak_bytes"] > 1e7
    assert row["nodes"] > 10 and row["initializers"] > 16 * 3 * 2
    assert not list(work.iterdir())
    (page,) = reports.glob("r1-export-*.md")
    assert "Tests ran." in page.read_text(encoding="utf-8")


def test_an_unknown_shape_is_refused(tmp_path: Path) -> None:
    places = ("--work-dir", tmp_path, "--report-dir", tmp_path)
    result = run_script(SCRIPTS / "benchmark_r1_export.py", "--shapes", "r1-0b", *places)
    assert result.returncode == 1 and "shapes are r1-671b" in result.stderr
