"""Models to cut into parts."""

from __future__ import annotations

from pathlib import Path

import pytest
from random_deepseek import write_deepseek
from scripts_under_test import REPOSITORY
from split_models import SplitModel, split_model
from tiny_checkpoints import write_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SplitModel:
    """Four layers, whose head is the embedding."""
    directory = tmp_path_factory.mktemp("llama")
    sizes = {"num_hidden_layers": 4, "tie_word_embeddings": True}
    return split_model(write_llama(directory / "checkpoint", tokenizer=True, seed=4, **sizes), directory, 4)


@pytest.fixture(scope="session")
def r1_asa(tmp_path_factory: pytest.TempPathFactory) -> SplitModel:
    """Trained weights."""
    checkpoint = REPOSITORY / "tests" / "data" / "r1_asa_bytes"
    return split_model(checkpoint, tmp_path_factory.mktemp("r1_asa"), 4)


@pytest.fixture(scope="session")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> SplitModel:
    """R1's form: a dense layer and two of experts."""
    directory = tmp_path_factory.mktemp("deepseek")
    checkpoint, _ = write_deepseek(directory / "checkpoint", experts=16)
    return split_model(checkpoint, directory, 3)


@pytest.fixture(scope="session")
def smollm2(smollm2_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> SplitModel:
    """Real weights."""
    return split_model(smollm2_dir, tmp_path_factory.mktemp("smollm2"), 30)
