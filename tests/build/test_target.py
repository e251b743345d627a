"""What a build accepts at most, where its options do not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_deepseek, write_llama

from r1trt.build.config import BuildConfig
from r1trt.build.target import limits_from_config
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export

CAPACITY = 131072
LONG = {"max_position_embeddings": CAPACITY}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ExportedModel]:
    """Two models with caches of 131,072 tokens."""
    directory = tmp_path_factory.mktemp("models")
    checkpoints = {
        "latent": write_deepseek(directory / "latent", **LONG),
        "llama": write_llama(directory / "llama", **LONG),
    }
    return {
        name: load_export(
            export_checkpoint(
                ExportConfig(checkpoint=path, output=directory / f"{name}-export", max_seq_len=CAPACITY)
            )
        )
        for name, path in checkpoints.items()
    }


@pytest.mark.parametrize(
    ("model", "options", "tokens"),
    [
        # Scores of 4 rows, 4 heads and 131,072 keys take 4 MiB a token in BF16.
        ("latent", {"arch": "ada"}, 256),
        ("latent", {"arch": "ada", "max_batch_size": 1}, 512),
        ("latent", {"arch": "ada", "max_batch_size": 4096}, 1),
        ("latent", {"arch": "ada", "max_input_len": 2048}, 2048),
        ("latent", {"arch": "ada", "max_seq_len": 100}, 100),
        ("latent", {"arch": "ada", "cache": False}, 512),
        ("latent", {"arch": "hopper"}, 512),
        ("latent", {"arch": "cpu"}, 512),
        ("llama", {"arch": "ada"}, 512),
    ],
)
def test_tokens_of_a_call(
    model: str, options: dict[str, Any], tokens: int, exports: dict[str, ExportedModel], tmp_path: Path
) -> None:
    config = BuildConfig(model=exports[model].path, output=tmp_path, **options)
    limits = limits_from_config(config, exports[model])
    assert limits.max_input_len == tokens
