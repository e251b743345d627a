from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import WriteCheckpoint, arrays_of, safetensors_bytes, write_index


@pytest.fixture
def write_checkpoint(tmp_path: Path) -> WriteCheckpoint:
    """Writes a checkpoint and returns its directory; `shards` > 1 adds an index."""

    def write(
        config: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None, shards: int = 1
    ) -> Path:
        arrays = arrays_of(config) if arrays is None else arrays
        directory = tmp_path / "checkpoint"
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))
        if shards == 1:
            (directory / "model.safetensors").write_bytes(safetensors_bytes(arrays))
            return directory
        weight_map = {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = dict(list(arrays.items())[shard::shards])
            (directory / file).write_bytes(safetensors_bytes(part))
            weight_map.update(dict.fromkeys(part, file))
        write_index(directory, weight_map)
        return directory

    return write
