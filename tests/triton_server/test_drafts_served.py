"""Prompt lookup in the real server: the text is the one without it, and metrics say what it drafted."""

from __future__ import annotations

import json
import time
from dataclasses import replace
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
LONGEST_S = 30


@pytest.mark.usefixtures("environment")
def test_a_request_alone_is_drafted_and_answered_as_without(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True, seed=4)
    engine = cpu_engine(checkpoint, tmp_path, max_seq_len=64, rows=2, last_token_logits=False)
    http, grpc, metrics = free_ports(3)
    served_with = ServeConfig(
        engines=(EngineToServe(path=engine),),
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        limits=GenerationLimits(prompt_lookup=6, threads=1),
    )
    with served_models(served_with) as served:
        url = f"http://{served.http}/v2/models/{served.name}/generate"
        status, body = post(url, {"text_input": PROMPT, "max_tokens": 40, "temperature": 0})
        found = (0.0, 0.0)
        deadline = time.monotonic() + LONGEST_S
        while not found[0] and time.monotonic() < deadline:  # figures are given out behind the answer
            page = get(f"http://{served.metrics}/metrics")
            found = metric(page, "r1trt_drafted_tokens"), metric(page, "r1trt_accepted_tokens")
    assert status == 200
    config = GenerateConfig(
        engine=engine, prompt=PROMPT, raw=True, max_new_tokens=40, temperature=0, threads=1
    )
    assert json.loads(body)["text_output"] == "".join(generate(config))
    looked_up = generate(replace(config, prompt_lookup=6))
    text = "".join(looked_up)
    assert json.loads(body)["text_output"] == text
    assert found == (looked_up.statistics.drafted_tokens, looked_up.statistics.accepted_tokens)
