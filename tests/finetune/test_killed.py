"""A training that is killed at any moment and asked for again ends as one that was left alone, to the bit."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from finetune.finetuning import config_for, write_model

from r1trt.artifacts.build import BuildDirectory
from r1trt.finetune.config import FinetuneConfig
from r1trt.finetune.finetune import finetune_checkpoint

SECONDS = 600
"""Most that anything is waited for."""


def configured(directory: Path) -> FinetuneConfig:
    """A training of a hundred steps, saved after each."""
    directory.mkdir()
    checkpoint = directory.parent / "checkpoint"
    return config_for(checkpoint, directory, batch=1, epochs=4, save_every=1, learning_rate=1e-3)


def command(config: FinetuneConfig) -> list[str]:
    return [
        sys.executable, "-m", "r1trt", "finetune", str(config.checkpoint), "--fp8", "-o", str(config.output),
        "--text", str(config.text), "--heldout", str(config.heldout), "--epochs", str(config.epochs),
        "--seq-len", str(config.seq_len), "--batch", "1", "--save-every", "1", "--threads", "1",
        "--learning-rate", str(config.learning_rate), "--heldout-tokens", str(config.heldout_tokens),
    ]  # fmt: skip


def kill_while_it_trains(config: FinetuneConfig) -> None:
    process = subprocess.Popen(command(config), stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + SECONDS
    while not (config.state / "state.json").exists():
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_the_result_is_the_same_to_the_bit(tmp_path: Path) -> None:
    write_model(tmp_path / "checkpoint")
    alone, killed = (configured(tmp_path / name) for name in ("alone", "killed"))
    assert finetune_checkpoint(alone).resumed_at == 0
    kill_while_it_trains(killed)
    done = len(json.loads((killed.state / "state.json").read_text())["losses"])
    result = finetune_checkpoint(killed)
    assert 0 < result.resumed_at == done < len(result.losses)
    files = ["model.safetensors", BuildDirectory(path=killed.output).precision_plan.name]
    for name in files:
        assert (killed.output / name).read_bytes() == (alone.output / name).read_bytes(), name
    assert not killed.state.exists()
