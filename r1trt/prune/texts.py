"""The text that experts are scored on, and that accuracy is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from r1trt.artifacts.disk import sha256_of_file
from r1trt.calibrate.calibrate import CalibrationConfig, chunks_of_text
from r1trt.calibrate.text import TokenChunks
from r1trt.data import CALIBRATION, HELDOUT
from r1trt.evaluate.texts import encoded_text, named, require_heldout, windows_of_text
from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel
from r1trt.prune.config import WINDOW, PruneConfig
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The text of a pruning, in token ids.

    Attributes:
        scored: What experts are scored on.
        heldout: What nothing else reads.
        facts: Where they come from.
    """

    scored: TokenChunks
    heldout: list[Window]
    facts: dict[str, Any]


def texts_of_pruning(config: PruneConfig, export: ExportedModel) -> Texts:
    """Read the texts.

    Raises:
        R1TrtError: One cannot be used, or is shorter than a window; names its file.
    """
    calibration, heldout = config.calibration or CALIBRATION, config.heldout or HELDOUT
    require_heldout(heldout, calibration)
    size = min(WINDOW, export.artifact.manifest.capacity)
    options = CalibrationConfig(
        tokenizer=export.path, text=config.calibration, tokens=config.calibration_tokens, chunk=size
    )
    scored = chunks_of_text(export.model, options)
    encoded = encoded_text(heldout, tokenizer_from_dir(export.path), export.config.vocab_size)
    with named(heldout):
        tokens = config.heldout_tokens
        windows = windows_of_text(encoded, size=size, tokens=tokens, text="heldout", window=min(size, tokens))
    facts = {
        "calibration": "package" if config.calibration is None else calibration.name,
        "calibration_sha256": sha256_of_file(calibration),
        "calibration_tokens": sum(map(len, scored)),
        "heldout": "package" if config.heldout is None else heldout.name,
        "heldout_sha256": sha256_of_file(heldout),
        "window": size,
    }
    return Texts(scored=scored, heldout=windows, facts=facts)
