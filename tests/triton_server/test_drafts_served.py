"""Prompt lookup in the real server: the text is the one without it, and metrics say what it drafted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cpu_engines import cpu_engine
from server_client import free_ports, get, metric, post
from tiny_checkpoints import write_llama

from r1trt.package.limits import GenerationLimits
from r1trt.runtime.generate import GenerateConfig, generate
from r1trt.triton_server.serve import ServeConfig, served_models
from r1trt.triton_server.served_models import EngineToServe

PROMPT = "a b c d a b c d a b"


@pytest.mark.usefixtures("environment")
def test_a_request_alone_is_drafted_and_answered_as_without(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, seed=4)
    engine = cpu_engine(checkpoint, tmp_path, max_seq_len=64, rows=2, last_token_logits=False)
    http, grpc, metrics = free_ports(3)
    config = ServeConfig(
        engines=(EngineToServe(path=engine),),
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        limits=GenerationLimits(prompt_lookup=6, threads=1),
    )
    with served_models(config) as served:
        url = f"http://{served.http}/v2/models/{served.name}/generate"
        status, body = post(url, {"text_input": PROMPT, "max_tokens": 40, "temperature": 0})
        page = get(f"http://{served.metrics}/metrics")
    assert status == 200
    alone = "".join(
        generate(
            GenerateConfig(
                engine=engine, prompt=PROMPT, raw=True, max_new_tokens=40, temperature=0, threads=1
            )
        )
    )
    assert json.loads(body)["text_output"] == alone
    drafted, accepted = (metric(page, f"r1trt_{name}_tokens") for name in ("drafted", "accepted"))
    assert drafted and 0 <= accepted <= drafted
