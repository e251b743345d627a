"""What a model thinks before it answers, between `<think>` and `</think>`, told apart as it comes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from r1trt.errors import ConfigError
from r1trt.tokenizer.stop_texts import unfinished_length

OPEN, CLOSE = "<think>", "</think>"
TAGS = (OPEN, CLOSE)

Kind = Literal["thinking", "answer", "tag"]

ThinkingMode = Literal["show", "hide", "only", "split"]
"""Give out the text as the model writes it, tags included; the answer alone; the thinking alone; or the
answer, and the thinking beside it."""

THINKING_MODES: tuple[ThinkingMode, ...] = get_args(ThinkingMode)


def check_thinking_mode(mode: str) -> None:
    """Raises ConfigError for what is not one of `THINKING_MODES`."""
    if mode not in THINKING_MODES:
        raise ConfigError("thinking has an unknown value.", found=mode, expected=", ".join(THINKING_MODES))


def opens_thinking(prompt: str) -> bool:
    """Whether what follows a prompt is thinking: some templates write `<think>` themselves, at their end."""
    return prompt.rstrip().endswith(OPEN)


@dataclass(frozen=True, kw_only=True)
class Part:
    """A stretch of text of one kind, not empty."""

    kind: Kind
    text: str


class ThinkingSplitter:
    """Tells thinking, tags and answer apart, wherever the text is cut; all parts together are the text.

    A tag counts where it changes something: `</think>` outside and `<think>` inside are plain text.

    Args:
        is_inside: The text begins inside, because the prompt opened the thinking.
    """

    def __init__(self, *, is_inside: bool = False) -> None:
        self.is_inside = is_inside
        self._held = ""

    @property
    def is_undecided(self) -> bool:
        """Text is held back that may become a tag."""
        return bool(self._held)

    def push(self, piece: str) -> list[Part]:
        """Takes text and returns what is certain by now."""
        parts: list[Part] = []
        text = self._held + piece
        while (start := text.find(self._wanted)) >= 0:
            end = start + len(self._wanted)
            parts += self._part(text[:start])
            parts.append(Part(kind="tag", text=text[start:end]))
            text, self.is_inside = text[end:], not self.is_inside
        certain = len(text) - unfinished_length(text, (self._wanted,))
        self._held = text[certain:]
        return parts + self._part(text[:certain])

    def finish(self) -> list[Part]:
        """Returns what was held back: the text ends without the rest of a tag."""
        held, self._held = self._held, ""
        return self._part(held)

    @property
    def _wanted(self) -> str:
        return CLOSE if self.is_inside else OPEN

    def _part(self, text: str) -> list[Part]:
        return [Part(kind="thinking" if self.is_inside else "answer", text=text)] if text else []


class ThinkingView:
    """Gives out of a text what a mode shows, and counts the tokens that went into thinking.

    Without the tags, the white space behind them is left out as well.

    Args:
        mode: What is given out.
        is_inside: The text begins inside, because the prompt opened the thinking.

    Raises:
        ConfigError: The mode is not known.
    """

    def __init__(self, mode: ThinkingMode = "show", *, is_inside: bool = False) -> None:
        check_thinking_mode(mode)
        self._mode = mode
        self._splitter = ThinkingSplitter(is_inside=is_inside)
        self._is_behind_tag = is_inside
        self._undecided_tokens = 0
        self._touches_thinking = False
        self._beside = ""
        self.thinking_tokens = 0

    def take_token(self, text: str, *, is_whole: bool = True) -> str:
        """Takes one more token and returns the text to give out.

        A token counts as thinking where any of its text is thinking or of a tag. Tokens whose texts are
        decided together count alike.

        Args:
            text: What the token added to the text that is certain.
            is_whole: Nothing of its text is still to come.
        """
        self._undecided_tokens += 1
        visible = self._push(text)
        if is_whole and not self._splitter.is_undecided:
            self._count()
        return visible

    def finish(self, text: str = "") -> str:
        """Takes the end of the text, of tokens that were taken before, and returns all that is left."""
        visible = self._push(text) + self._visible(self._splitter.finish())
        self._count()
        return visible

    def take_thinking(self) -> str:
        """Returns the thinking that came since the last call, where the mode is `split`."""
        beside, self._beside = self._beside, ""
        return beside

    def _push(self, text: str) -> str:
        self._touches_thinking |= self._splitter.is_inside
        return self._visible(self._splitter.push(text))

    def _visible(self, parts: list[Part]) -> str:
        self._touches_thinking |= any(part.kind != "answer" for part in parts)
        if self._mode == "show":
            return "".join(part.text for part in parts)
        wanted = "thinking" if self._mode == "only" else "answer"
        bare = [(part.kind, self._bare(part)) for part in parts]
        if self._mode == "split":
            self._beside += "".join(text for kind, text in bare if kind == "thinking")
        return "".join(text for kind, text in bare if kind == wanted)

    def _bare(self, part: Part) -> str:
        """A part's text without the white space behind a tag."""
        text = part.text.lstrip() if self._is_behind_tag else part.text
        self._is_behind_tag = part.kind == "tag" or (self._is_behind_tag and not text)
        return text

    def _count(self) -> None:
        if self._touches_thinking:
            self.thinking_tokens += self._undecided_tokens
        self._undecided_tokens, self._touches_thinking = 0, False
