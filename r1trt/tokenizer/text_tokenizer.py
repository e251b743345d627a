"""Text to token ids and back, from the files of a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers

from r1trt.artifacts.directory import ModelDirectory
from r1trt.errors import CheckpointError, ConfigError
from r1trt.files import TEXT_BYTES, TOKENIZER_BYTES, bytes_of_file, is_there
from r1trt.lifetime.standard_streams import without_stream
from r1trt.strict_json import json_object_from_file
from r1trt.tokenizer.added_tokens import added_tokens_from_documents
from r1trt.tokenizer.chat_template import ChatTemplate, Message, chat_templates_from_dir
from r1trt.tokenizer.decode_stream import DecodeStream, stream_of_decoder, text_of_tokens
from r1trt.tokenizer.library_errors import tokenizer_errors
from r1trt.tokenizer.limited_process import LimitedProcess, Limits
from r1trt.tokenizer.thinking import TAGS, opens_thinking
from r1trt.tokenizer.token_bytes import token_bytes_of_decoder
from r1trt.tokenizer.tools import Tool
from r1trt.tokenizer.vetting import is_bounded

# Enough for a tag that is spelled letter by letter, and the white space behind it.
_TAG_TOKENS = 16


class TextTokenizer:
    """A tokenizer with its chat template and end-of-sequence ids.

    Args:
        tokenizer: The tokenizer.
        special_tokens: Special tokens by the names of `tokenizer_config.json`.
        chat_template: None where the model has none, or several and no default.
        template_names: Names of all templates.
        other_ids: Tokens that have other ids than the files beside tokenizer.json say: those, and theirs.
        eos_ids: Tokens that end generation.
        process: Where it runs, unless in this process.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        *,
        special_tokens: Mapping[str, str],
        chat_template: ChatTemplate | None,
        eos_ids: frozenset[int],
        template_names: Collection[str] = (),
        other_ids: Mapping[str, tuple[int, int | None]] | None = None,
        process: LimitedProcess | None = None,
    ) -> None:
        self._tokenizer, self._process = tokenizer, process
        self.special_tokens = dict(special_tokens)
        self.chat_template = chat_template
        self.template_names = sorted(template_names)
        self.other_ids = dict(other_ids or {})
        self.eos_ids = eos_ids
        # Not the number of tokens: ids may have gaps. A model's vocabulary is often padded beyond.
        self.vocab_size = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        added = tokenizer.get_added_tokens_decoder().items()
        decoder = tokenizer.decoder
        self._decoder_state = None if decoder is None else decoder.__getstate__()
        self._bytes_of = token_bytes_of_decoder(self._decoder_state, self._text_of)
        self._skipped = {index for index, token in added if token.special and token.content not in TAGS}

    @property
    def runs_apart(self) -> bool:
        """Whether it runs in a process of its own, with limits."""
        return self._process is not None

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns token ids; by default with what the tokenizer puts around a text, for instance BOS.

        Raises:
            CheckpointError: The tokenizer fails at the text, or takes more time or memory than it may.
            ConfigError: The text is not Unicode, or longer than any prompt.
        """
        _require_text(text)
        with tokenizer_errors("The tokenizer cannot read this text."):
            if self._process is not None:
                request = {"call": "encode", "text": text, "special": add_special_tokens}
                return list(self._process.call(request))
            # NOTES: of one text alone the library holds the interpreter's lock, which others' tokens need.
            (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
            return list(encoding.ids)

    def encode_chat(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True, tools: Sequence[Tool] = ()
    ) -> list[int]:
        """Renders messages, and tools that the model may call; by default opens the assistant's turn.

        Raises:
            ConfigError: The model has no chat template, or the template refuses the messages, or takes no
                tools.
        """
        template = self.require_chat_template()
        for value in (value for message in messages for value in message.values()):
            if isinstance(value, str):
                _require_text(value)
        # The template writes the special tokens itself.
        text = template.render(
            messages,
            special_tokens=self.special_tokens,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
        )
        return self.encode(text, add_special_tokens=False)

    @property
    def is_raw(self) -> bool:
        """The model has no chat templates at all, so that prompts are texts to go on with."""
        return self.chat_template is None and not self.template_names

    def require_chat_template(self) -> ChatTemplate:
        """The template for conversations.

        Raises:
            ConfigError: There is none, or there are some and none is the default.
        """
        if self.chat_template is None:
            raise self._no_template()
        return self.chat_template

    def _no_template(self) -> ConfigError:
        if self.template_names:
            return ConfigError(
                "The model has several chat templates, and none is the default.",
                found=", ".join(self.template_names),
                expected="one that is called default",
                fix="put the one that is meant into chat_template.jinja, or take the text as it is (--raw)",
            )
        return ConfigError(
            "The model has no chat template.",
            expected="chat_template.jinja, or chat_template in tokenizer_config.json",
            fix="pass the prompt as it stands (r1trt generate --raw)",
        )

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids; tags of thinking are text, even where they are special tokens."""
        shown = [token for token in ids if token not in self._skipped] if skip_special_tokens else list(ids)
        with tokenizer_errors("The tokenizer cannot write these tokens."):
            if self._process is not None:
                return str(self._process.call({"call": "decode", "ids": shown}))
            return str(self._tokenizer.decode(shown, skip_special_tokens=False))

    def opens_thinking(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt ends with the tag that opens the model's thinking."""
        return opens_thinking(self.decode(prompt_ids[-_TAG_TOKENS:], skip_special_tokens=False))

    def stream(self) -> TextStream:
        """Starts to decode tokens one at a time."""
        stream = stream_of_decoder(self._decoder_state, self._text_of)
        return TextStream(self._tokenizer, stream, self._skipped)

    def token_bytes(self, token: int) -> bytes:
        """Returns what a token stands for within a text, in UTF-8; a part of a character for some tokens.

        A special token stands for its name, a token that the vocabulary does not have for nothing.

        Raises:
            CheckpointError: The tokenizer fails at this token.
        """
        spelled = self._tokenizer.id_to_token(token)
        if spelled is None or token in self._skipped:
            return (spelled or "").encode()
        return self._bytes_of(spelled)

    def _text_of(self, tokens: Sequence[str]) -> str:
        with tokenizer_errors("The tokenizer cannot write these tokens."):
            if self._process is not None:
                return str(self._process.call({"call": "join", "tokens": tokens}))
            return text_of_tokens(self._tokenizer, tokens)


class TextStream:
    """Decodes one token at a time; the pieces together are what decoding all tokens at once gives.

    Args:
        tokenizer: Whose tokens.
        stream: What its decoder asks for.
        skipped: Tokens that are not shown.
    """

    def __init__(
        self, tokenizer: tokenizers.Tokenizer, stream: DecodeStream, skipped: Collection[int]
    ) -> None:
        self._tokenizer, self._stream, self._skipped = tokenizer, stream, skipped

    def push(self, token: int) -> str:
        """Takes a token and returns the text that is certain by now; empty inside a character.

        Raises:
            CheckpointError: The tokenizer fails at these tokens.
        """
        spelled = None if token in self._skipped else self._tokenizer.id_to_token(token)
        return "" if spelled is None else self._stream.push(spelled)

    def finish(self) -> str:
        """Returns the rest of the text, in which bytes that never became a character are U+FFFD.

        Raises:
            CheckpointError: As `push`.
        """
        return self._stream.finish()


def _require_text(text: str) -> None:
    """Raises ConfigError for what no tokenizer is given."""
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        # Bytes of a command line or a pipe that are not UTF-8 arrive as these (PEP 383).
        is_byte = 0xDC80 <= ord(text[error.start]) <= 0xDCFF
        found = "a byte that is not UTF-8" if is_byte else "half of a surrogate pair"
        raise ConfigError(
            "The text is not Unicode.",
            found=f"{found}, at character {error.start}",
            expected="text that UTF-8 can hold",
            fix="give it in UTF-8",
        ) from error
    if size > TEXT_BYTES:
        raise ConfigError(
            "The text is too long.",
            found=f"{size} bytes",
            expected=f"at most {TEXT_BYTES} bytes",
            fix="give a part of it",
        )


def tokenizer_from_dir(directory: Path) -> TextTokenizer:
    """Load the tokenizer of a checkpoint, export or build directory.

    Raises:
        CheckpointError: `tokenizer.json` is missing, or one of the files is damaged.
    """
    files = ModelDirectory(path=directory)
    path = files.tokenizer
    if not is_there(path):
        raise CheckpointError(
            "The directory has no tokenizer.",
            where=path,
            fix="put the model's tokenizer.json there; `r1trt export` copies it where the checkpoint has one",
        )
    tokenizer_config = _json_object(files.tokenizer_config)
    # First, since its process starts while the tokenizer is read.
    templates = chat_templates_from_dir(directory, tokenizer_config)
    template = templates.default
    tokenizer = _library_tokenizer(path)
    tokens = added_tokens_from_documents(
        tokenizer_config,
        _json_object(files.special_tokens),
        _json_object(files.added_tokens),
        tokenizer,
        where=files.tokenizer_config,
    )
    with tokenizer_errors("The tokenizer does not take its added tokens.", where=path), without_stream(2):
        tokens.add_to(tokenizer)
        process = None if is_bounded(tokenizer) else _process_of(tokenizer)
    special_tokens = tokens.texts_by_name
    if template is not None:
        template.require_valid()
    return TextTokenizer(
        tokenizer,
        special_tokens=special_tokens,
        chat_template=template,
        eos_ids=_eos_ids(files, tokenizer, special_tokens),
        template_names=templates.sources,
        other_ids=tokens.other_ids(tokenizer),
        process=process,
    )


def _library_tokenizer(path: Path) -> tokenizers.Tokenizer:
    data = bytes_of_file(path, limit=TOKENIZER_BYTES)
    with tokenizer_errors("The tokenizer cannot be read.", where=path), without_stream(2):
        tokenizer = tokenizers.Tokenizer.from_buffer(data)
    # A file may carry padding or truncation from training, which would change prompts silently.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _process_of(tokenizer: tokenizers.Tokenizer) -> LimitedProcess:
    return LimitedProcess("tokenizer", tokenizer.to_str().encode(), Limits())


def _json_object(path: Path) -> dict[str, Any]:
    return json_object_from_file(path) if is_there(path) else {}


def _eos_ids(
    files: ModelDirectory, tokenizer: tokenizers.Tokenizer, special_tokens: Mapping[str, str]
) -> frozenset[int]:
    """The ids that end generation: the tokenizer's, with the generation config's, else the model config's."""
    token = tokenizer.token_to_id(special_tokens.get("eos_token", ""))
    own = frozenset() if token is None else frozenset({token})
    for path in (files.generation_config, files.config):
        value = _json_object(path).get("eos_token_id")
        ids = [value] if isinstance(value, int) else value
        if isinstance(ids, list) and ids:
            if not all(isinstance(token, int) for token in ids):
                raise CheckpointError("eos_token_id lists what is not a token id.", where=path, found=value)
            return own | frozenset(ids)
    return own
