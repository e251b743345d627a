"""A tiny R1-ASA and a tiny Llama, exported, with their candidates."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_case import CAPACITY, Case
from tiny_checkpoints import write_llama, write_r1_asa

from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.precision.rules import plan_from_rules
from r1trt.search.candidates import candidate_plans, groups_of_candidates
from r1trt.search.chain import ModelChain


@pytest.fixture(scope="session", params=["llama", "r1-asa"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    directory = tmp_path_factory.mktemp(request.param)
    checkpoint = directory / "checkpoint"
    if request.param == "llama":
        write_llama(checkpoint, tokenizer=True, head_dim=64)
    else:
        write_r1_asa(checkpoint, tokenizer=True, num_shared_experts=1, shared_intermediate_size=32)
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=CAPACITY)
    export = load_export(export_checkpoint(config))
    plans = candidate_plans(export, "ada", CalibrationConfig(tokenizer=export.path, tokens=512, chunk=64))
    return Case(
        export=export,
        chain=ModelChain(export.model, export.weight_base),
        exact=plan_from_rules(export.model, "ada", "fp32"),
        plans=plans,
        groups=groups_of_candidates(export.model, plans),
    )


@pytest.fixture(scope="session")
def llama_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("searched")
    write_llama(directory / "checkpoint", tokenizer=True, head_dim=64)
    return export_checkpoint(
        ExportConfig(checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=CAPACITY)
    )
