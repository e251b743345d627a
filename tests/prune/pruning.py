"""Tiny checkpoints to prune, and the text that they are scored on."""

from __future__ import annotations

from pathlib import Path

from r1trt.calibrate.text import TokenChunks, token_chunks
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import ExportedModel, load_export
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

TEXT = "The cat sat on the mat, and 17 other things happened on 3 May. " * 40
TOKENS, CHUNK = 300, 64


def exported(checkpoint: Path, directory: Path) -> ExportedModel:
    return load_export(export_checkpoint(ExportConfig(checkpoint=checkpoint, output=directory)))


def chunks_of(checkpoint: Path) -> TokenChunks:
    return token_chunks([tokenizer_from_dir(checkpoint).encode(TEXT)], length=CHUNK, tokens=TOKENS)
