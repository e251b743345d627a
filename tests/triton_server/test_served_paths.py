"""Builds and repositories below folders of any name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from server_client import free_ports, post

from r1trt.package.repository import TritonConfig, repository_from_engine
from r1trt.triton_server.serve import ServeConfig, served_models
from r1trt.triton_server.served_models import EngineToServe

FOLDERS = ("my models", "modèle 模型", "it's $HOME; `x`")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("kind", ["build", "repository"])
def test_they_are_served(tiny_engine: Path, tmp_path: Path, folder: str, kind: str) -> None:
    (tmp_path / folder).mkdir()
    engine = tmp_path / folder / kind
    if kind == "build":
        shutil.copytree(tiny_engine, engine)
    else:
        repository_from_engine(TritonConfig(engines=(tiny_engine,), output=engine))
    http, grpc, metrics = free_ports(3)
    config = ServeConfig(
        engines=(EngineToServe(path=engine),), http_port=http, grpc_port=grpc, metrics_port=metrics
    )
    with served_models(config) as model:
        url = f"http://{model.http}/v2/models/{model.name}/generate"
        status, answer = post(url, {"text_input": "Every function", "max_tokens": 3})
    assert status == 200 and "text_output" in answer
