"""How long a sequence a model computes as its checkpoint means it."""

from __future__ import annotations

from r1trt.config.model import ModelConfig
from r1trt.errors import ConfigError


def require_positions(model: ModelConfig, tokens: int, option: str, *, where: object = None) -> None:
    """Raises ConfigError where sequences of `tokens` tokens go beyond the positions of a model.

    Args:
        model: The model.
        tokens: Longest sequence.
        option: The command's option that sets it, e.g. "--max-seq-len".
        where: File that the model's configuration comes from.
    """
    limit = model.max_position_embeddings
    # NOTES: a temperature is made for positions beyond the trained ones.
    if tokens > limit and not model.rope.temperature_alpha:
        raise ConfigError(
            f"{option} is beyond the positions that the model was made for.",
            where=where,
            found=tokens,
            expected=f"at most max_position_embeddings = {limit}",
            fix=f"pass {option} {limit} or less",
        )


def require_window(model: ModelConfig, tokens: int, option: str, *, where: object = None) -> None:
    """Raises ConfigError where a sliding window would hide tokens of a sequence of `tokens` tokens.

    Attention to all tokens and attention inside a window are the same up to the window's length; beyond it
    the exported graph would compute another model than the checkpoint's.
    """
    if model.window is not None and tokens > model.window:
        raise ConfigError(
            "Sliding-window attention is not implemented, and sequences longer than the window need it.",
            where=where,
            found=f"sequences of up to {tokens} tokens, sliding_window {model.window}",
            expected=f"at most {model.window} tokens: up to there the window hides nothing",
            fix=f"pass {option} {model.window} or less",
        )
