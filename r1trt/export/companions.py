"""The files beside the weights: copied into the export, checked, and what a user has to know of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from r1trt.artifacts.directory import ModelDirectory
from r1trt.export.tokenizer_conversion import ConversionError, convert_tokenizer, other_form
from r1trt.files import is_there
from r1trt.lifetime.temporary import temporary_directory
from r1trt.tokenizer.chat_template import DEFAULT
from r1trt.tokenizer.text_tokenizer import TextTokenizer, tokenizer_from_dir

_MOST_NOTES = 3
_NEEDS = "`r1trt generate`, `serve` and `triton` need tokenizer.json in the build's directory"


def write_companions(checkpoint: Path, export: Path, *, vocab_size: int) -> list[str]:
    """Copies a checkpoint's companions; makes tokenizer.json where its tokenizer has another form.

    Args:
        checkpoint: Where from.
        export: Where to.
        vocab_size: Rows of the model's embedding.

    Returns:
        Notes: what is missing, converted, not used, or does not fit.

    Raises:
        CheckpointError: A file is damaged.
    """
    source, target = ModelDirectory(path=checkpoint), ModelDirectory(path=export)
    source.copy_companions_to(export)
    notes = [] if is_there(source.tokenizer) else [_converted(source, target)]
    if is_there(target.tokenizer):
        # Named in errors: what the user has, and not a copy that is gone by then.
        tokenizer = tokenizer_from_dir((source if is_there(source.tokenizer) else target).path)
        notes += [*_vocabulary_notes(tokenizer, vocab_size), *_template_notes(tokenizer)]
    return notes


def _converted(source: ModelDirectory, target: ModelDirectory) -> str:
    form = other_form(source.path)
    if form is None:
        return f"The checkpoint has no tokenizer. {_NEEDS}."
    try:
        with temporary_directory("tokenizer") as made:
            by = convert_tokenizer(source.path, made)
            for path in ModelDirectory(path=made).companions:
                # Over what was copied: a class of transformers knows special tokens that no file names.
                shutil.copyfile(path, target.path / path.name)
    except ConversionError as error:
        return (
            f"The checkpoint has {form}, of which no tokenizer.json could be made ({error}). {_NEEDS};"
            " AutoTokenizer.from_pretrained(...).save_pretrained(...) of transformers writes it."
        )
    return f"tokenizer.json was made of the checkpoint's {form} by {by}."


def _vocabulary_notes(tokenizer: TextTokenizer, vocab_size: int) -> list[str]:
    notes = []
    if tokenizer.vocab_size > vocab_size:
        ids = tokenizer.vocab_size
        notes.append(
            f"The tokenizer has {ids} token ids, and the model's embedding {vocab_size} rows: texts that need"
            f" ids from {vocab_size} on are refused."
        )
    for content, (meant, given) in sorted(tokenizer.other_ids.items())[:_MOST_NOTES]:
        notes.append(
            f"The token {content!r} has id {given} in tokenizer.json, and {meant} in the files beside it: "
            f"{given} is used, as transformers does."
        )
    return notes


def _template_notes(tokenizer: TextTokenizer) -> list[str]:
    others = ", ".join(name for name in tokenizer.template_names if name != DEFAULT)
    if tokenizer.is_raw:
        return ["The checkpoint has no chat template: prompts are texts that the model goes on with."]
    if tokenizer.chat_template is None:
        return [f"No chat template is called default, so conversations are refused; there are: {others}."]
    return [f"Only the default chat template is used; there are also: {others}."] if others else []
