"""How requests are to share a model, before the engine is known."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.artifacts.build import BuildManifest
from r1trt.errors import ConfigError, UsageError
from r1trt.runtime.prompt_lookup import require_all_logits
from r1trt.serving.config import SchedulerConfig, ServingConfig
from r1trt.serving.pinned import require_row


@dataclass(frozen=True, kw_only=True)
class GenerationLimits:
    """How requests share the model; written into the repository, where they can be edited.

    Attributes:
        rows: Requests that run at a time; None takes the engine's batch size.
        chunk_tokens: Prompt tokens of one call; None has a server measure on a CPU, and takes what the engine
            accepts on a GPU.
        token_budget: Tokens of all running requests together, asked-for ones included; None allows what the
            cache holds.
        max_queue: Requests that wait, at most.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        prefix_reuse: The beginning of a prompt that stands in the cache is not read again.
        reuse_answers: Neither is what was generated, though its numbers are not those of a prompt's tokens.
        pinned_prompt: A system prompt that is read once, and stays in a row of its own; None pins nothing.
        prompt_lookup: Tokens of a draft that is looked up where one request alone decodes; 0 drafts nothing.
        cluster: HOST:PORT of a Ray cluster whose nodes run the engine's parts; None runs it in the server.
    """

    rows: int | None = None
    chunk_tokens: int | None = None
    token_budget: int | None = None
    max_queue: int = SchedulerConfig.max_queue
    threads: int | None = None
    prefix_reuse: bool = True
    reuse_answers: bool = False
    pinned_prompt: str | None = None
    prompt_lookup: int = 0
    cluster: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        if self.reuse_answers and not self.prefix_reuse:
            raise UsageError(
                "Answers cannot be reused where nothing is.", found="--reuse-answers and --no-prefix-reuse"
            )
        if self.pinned_prompt is not None and not self.pinned_prompt.strip():
            raise UsageError("The prompt to pin is empty.", fix="leave out --pin-prompt, or write a text")
        if self.pinned_prompt is not None and self.cluster is not None:
            raise UsageError("A prompt cannot be pinned on a cluster yet.", fix="leave out --pin-prompt")
        for name in ("rows", "chunk_tokens", "token_budget", "max_queue", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is too small.", found=value, expected="1 or more")

    def for_engine(self, manifest: BuildManifest) -> ServingConfig:
        """What an engine's server runs with.

        Raises:
            ConfigError: The engine was built for fewer rows, there is none for the pinned prompt, or it says
                nothing of a draft's tokens.
        """
        if self.prompt_lookup:
            require_all_logits(manifest.last_token_logits)
        if self.cluster is not None and not manifest.parts:
            raise ConfigError(
                "A cluster runs a model in parts, a stage each.",
                found="one engine",
                fix="build with --parts N, or leave out --cluster",
            )
        rows = self.rows or manifest.max_batch_size
        if rows > manifest.max_batch_size:
            raise ConfigError(
                "The engine was not built for so many rows.",
                found=rows,
                expected=f"at most {manifest.max_batch_size} (--max-batch-size of the build)",
            )
        if self.pinned_prompt is not None:
            require_row(rows)
        chunk = self.chunk_tokens
        if chunk is not None or manifest.backend != "onnxruntime":
            chunk = min(chunk or manifest.max_input_len, manifest.max_input_len)
        return ServingConfig(
            rows=rows,
            threads=self.threads,
            cluster=self.cluster,
            scheduler=SchedulerConfig(
                chunk_tokens=chunk,
                token_budget=self.token_budget,
                max_queue=self.max_queue,
                prefix_reuse=self.prefix_reuse,
                reuse_answers=self.reuse_answers,
                prompt_lookup=self.prompt_lookup,
            ),
        )
