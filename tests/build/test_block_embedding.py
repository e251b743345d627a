"""An embedding in INT8 blocks: builds store it once with a tied head, and stay near the model in FP32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_checkpoints import write_llama

from r1trt.arch import BuildPrecision
from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.errors import PlanError
from r1trt.evaluate.divergence import Reference
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.precision.plan_file import load_plan, save_plan
from r1trt.runtime.load import session_from_engine

VOCABULARY, WIDTH, BLOCKS = 320, 80, 3  # the last block of a row has 16 weights and 16 of padding
TABLE, HEAD, EMBEDDING = "model.embed_tokens.weight", "lm_head.weight", "model.embed_tokens"
IDS = np.random.default_rng(0).integers(2, 300, (1, 24))
KL: dict[BuildPrecision, float] = {"int8": 1e-3, "int4": 0.1}


def exported(directory: Path, *, tied: bool) -> Path:
    checkpoint = write_llama(
        directory / "checkpoint", tokenizer=True, hidden_size=WIDTH, head_dim=16, tie_word_embeddings=tied
    )
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    return export_checkpoint(config)


def built(export: Path, output: str, **options: Any) -> BuildArtifact:
    config = BuildConfig(model=export, arch="cpu", output=export.parent / output, **options)
    return BuildArtifact.read(build_engine(config))


def logits_of(build: BuildArtifact) -> np.ndarray:
    session = session_from_engine(build.path)
    session.reset(1)
    return session.run(IDS, np.array([IDS.size]), np.zeros(1, np.int64))["logits"][0]


@pytest.mark.parametrize("precision", KL)
@pytest.mark.parametrize("tied", [True, False])
def test_a_table_is_stored_once_for_all_that_read_it(
    precision: BuildPrecision, tied: bool, tmp_path: Path
) -> None:
    export = exported(tmp_path, tied=tied)
    build = built(export, "narrow", precision=precision)
    layers = load_plan(build.precision_plan).layers
    for name in (EMBEDDING, "lm_head"):
        assert (layers[name].weight, layers[name].block_size) == ("int8", 32)
    tensors = load_file(build.weights)
    tables = {name: (array.dtype, array.shape) for name, array in tensors.items() if len(array) == VOCABULARY}
    assert tables == {
        name: kind
        for weight in ([TABLE] if tied else [TABLE, HEAD])
        for name, kind in (
            (f"{weight}.int8_blocks32", (np.uint8, (VOCABULARY, BLOCKS, 32))),
            (f"{weight}.int8_blocks32.scales", (np.float32, (VOCABULARY, BLOCKS))),
        )
    }
    exact = Reference(logits_of(built(export, "wide", precision="fp32")))
    assert exact.kl(logits_of(build)).mean() < KL[precision]


def test_a_plan_may_keep_it_wide_and_not_make_it_int4(tmp_path: Path) -> None:
    export = exported(tmp_path, tied=True)
    plan, file = load_plan(built(export, "int8", precision="int8").precision_plan), tmp_path / "plan.yaml"

    def with_table(**fields: Any) -> Path:
        table = replace(plan.layers[EMBEDDING], **fields)
        save_plan(replace(plan, layers={**plan.layers, EMBEDDING: table}), file)
        return file

    wide = built(export, "wide", plan=with_table(weight="fp32", block_size=None))
    assert {TABLE, f"{TABLE}.int8_blocks32"} < load_file(wide.weights).keys()
    with_table()
    file.write_text(
        file.read_text().replace("weight: int8\n    output: fp32", "weight: int4\n    output: fp32", 1)
    )
    with pytest.raises(PlanError, match="not valid") as caught:
        built(export, "int4", plan=file)
    assert "weight is int4, but can be int8 or bf16 or fp32" in str(caught.value.details["found"])
