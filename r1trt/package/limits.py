"""How requests are to share a model, before the engine is known."""

from __future__ import annotations

from dataclasses import dataclass

from r1trt.artifacts.build import BuildManifest
from r1trt.errors import ConfigError, UsageError
from r1trt.runtime.prompt_lookup import require_all_logits
from r1trt.serving.config import SchedulerConfig, ServingConfig

_CPU_CHUNK_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class GenerationLimits:
    """How requests share the model; written into the repository, where they can be edited.

    Attributes:
        rows: Requests that run at a time; None takes the engine's batch size.
        chunk_tokens: Prompt tokens of one call; None takes 64 on a CPU, and what the engine accepts on a GPU.
        token_budget: Tokens of all running requests together, asked-for ones included; None allows what the
            cache holds.
        max_queue: Requests that wait, at most.
        threads: CPU threads of ONNX Runtime; None takes one for each core that may be used.
        prompt_lookup: Tokens of a draft that is looked up where one request alone decodes; 0 drafts nothing.
    """

    rows: int | None = None
    chunk_tokens: int | None = None
    token_budget: int | None = None
    max_queue: int = SchedulerConfig.max_queue
    threads: int | None = None
    prompt_lookup: int = 0

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        for name in ("rows", "chunk_tokens", "token_budget", "max_queue", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is too small.", found=value, expected="1 or more")

    def for_engine(self, manifest: BuildManifest) -> ServingConfig:
        """What an engine's server runs with.

        Raises:
            ConfigError: The engine was built for fewer rows, or says nothing of a draft's tokens.
        """
        if self.prompt_lookup:
            require_all_logits(manifest.last_token_logits)
        rows = self.rows or manifest.max_batch_size
        if rows > manifest.max_batch_size:
            raise ConfigError(
                "The engine was not built for so many rows.",
                found=rows,
                expected=f"at most {manifest.max_batch_size} (--max-batch-size of the build)",
            )
        chunk = _CPU_CHUNK_TOKENS if manifest.backend == "onnxruntime" else manifest.max_input_len
        return ServingConfig(
            rows=rows,
            threads=self.threads,
            scheduler=SchedulerConfig(
                chunk_tokens=min(self.chunk_tokens or chunk, manifest.max_input_len),
                token_budget=self.token_budget,
                max_queue=self.max_queue,
                prompt_lookup=self.prompt_lookup,
            ),
        )
