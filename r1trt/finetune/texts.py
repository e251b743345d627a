"""The text that is trained on, in windows, and the text that nothing else reads.

Legend: N windows, B windows of a step, S tokens of a window.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from r1trt.artifacts.disk import sha256_of_file
from r1trt.config import ModelConfig
from r1trt.config.length import require_positions, require_window
from r1trt.data import CALIBRATION, HELDOUT
from r1trt.errors import ConfigError
from r1trt.evaluate.texts import encoded_text, named, require_heldout, windows_of_text
from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel
from r1trt.finetune.config import SEQ_LEN, FinetuneConfig
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


@dataclass(frozen=True, kw_only=True)
class TrainingText:
    """Windows of text, and the order that they are read in.

    Attributes:
        windows: Token ids int64 [N, S + 1]: each window's last token is the first of the next.
        batch: B.
        epochs: How often all of them are read.
        seed: Of the order.
    """

    windows: NDArray[np.int64]
    batch: int
    epochs: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches; the windows that are left over differ by epoch."""
        return len(self.windows) // self.batch

    @property
    def steps(self) -> int:
        """Of the whole training."""
        return self.steps_per_epoch * self.epochs

    @property
    def sha256(self) -> str:
        """Hash of the windows."""
        return hashlib.sha256(np.ascontiguousarray(self.windows).tobytes()).hexdigest()

    def batch_of_step(self, step: int) -> NDArray[np.int64]:
        """Token ids [B, S + 1]; they depend on seed and step alone, so that a training can be resumed."""
        epoch, place = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.windows))
        return self.windows[order[place * self.batch : (place + 1) * self.batch]]


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text of a fine-tuning, in token ids.

    Attributes:
        training: What is trained on.
        heldout: What nothing else reads.
        facts: Where they come from.
    """

    training: TrainingText
    heldout: list[Window]
    facts: dict[str, Any]


def window_size(model: ModelConfig, config: FinetuneConfig) -> int:
    """Tokens of a window.

    Raises:
        ConfigError: The model was not made for as many.
    """
    if config.seq_len is None:
        return min(SEQ_LEN, model.max_position_embeddings, model.window or SEQ_LEN)
    require_positions(model, config.seq_len, "--seq-len", where=config.checkpoint)
    require_window(model, config.seq_len, "--seq-len", where=config.checkpoint)
    return config.seq_len


def texts_of_finetuning(config: FinetuneConfig, export: ExportedModel) -> Texts:
    """Read the texts.

    Raises:
        R1TrtError: One cannot be used, or is shorter than a batch; names its file.
    """
    text, heldout = config.text or CALIBRATION, config.heldout or HELDOUT
    require_heldout(heldout, text)
    size = window_size(export.config, config)
    tokenizer, vocab_size = tokenizer_from_dir(export.path), export.config.vocab_size
    with named(text):
        windows = training_windows(encoded_text(text, tokenizer, vocab_size), size=size, batch=config.batch)
    encoded = encoded_text(heldout, tokenizer, vocab_size)
    with named(heldout):
        tokens = config.heldout_tokens
        measured = windows_of_text(
            encoded, size=size, tokens=tokens, text="heldout", window=min(size, tokens)
        )
    training = TrainingText(windows=windows, batch=config.batch, epochs=config.epochs, seed=config.seed)
    facts = {
        "text": "package" if config.text is None else text.name,
        "text_sha256": sha256_of_file(text),
        "heldout": "package" if config.heldout is None else heldout.name,
        "heldout_sha256": sha256_of_file(heldout),
        "window": size,
        "windows": len(windows),
    }
    return Texts(training=training, heldout=measured, facts=facts)


def training_windows(encoded: Sequence[Sequence[int]], *, size: int, batch: int) -> NDArray[np.int64]:
    """Cut documents, one after the other, into windows [N, size + 1]; what does not fill one is left out.

    Args:
        encoded: Each document's token ids.
        size: Tokens of a window that a next one is predicted for.
        batch: Windows of a step, which the text has to fill.

    Raises:
        ConfigError: It does not.
    """
    ids = np.concatenate([np.zeros(0, np.int64), *(np.asarray(item, np.int64) for item in encoded)])
    count = max(len(ids) - 1, 0) // size
    if count < batch:
        raise ConfigError(
            "The text is shorter than one batch.",
            found=f"{len(ids)} tokens",
            expected=f"at least {batch * size + 1}: {batch} windows of {size} tokens, and what follows them",
            fix="pass a longer --text, or a smaller --batch or --seq-len",
        )
    windows: NDArray[np.int64] = ids[np.arange(count)[:, None] * size + np.arange(size + 1)]
    return windows
