"""What R1-ASA's own saving comes to in `--arch cpu` engines: prompts by lambda, steps by number of experts.

    python scripts/benchmark_asa_cpu.py --work-dir DIR

The models are random and differ in nothing but what a row names. Prompts: lambda is 1 for a fifth of the
(token, head) pairs and 0 for the others, or 1 for all, which is full attention. Steps: as many experts a
token, out of more and more of them. What is compared runs in turn; figures are medians. --before names the
--work-dir of an earlier version, whose engines are timed beside these. Where others use the machine too, take
--clock cpu with --threads 1: time of the processor, which waiting does not add to.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from machine import machine
from receipts import write_receipt

from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.export.io import load_export
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM, save_checkpoint
from r1trt.runtime.graph_session import session_from_export
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.prefill import prefill
from r1trt.runtime.session import Session

REPOSITORY = Path(__file__).resolve().parent.parent
MODEL: dict[str, Any] = {
    "architectures": ["R1AsaForCausalLM"],
    "model_type": "r1_asa",
    "vocab_size": 4096,
    "hidden_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 16384,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "num_experts": 64,
    "moe_intermediate_size": 256,
    "num_shared_experts": 1,
    "shared_intermediate_size": 256,
    "top_k": 2,
    "adaptive_threshold": 1.0,
    "hla_block_size": 32,
    "hla_lam_skip": 0.49,  # lambda is 0 or 1, but for the few pairs whose gate is undecided
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "rope_temperature_alpha": 0.1,
    "original_max_position_embeddings": 16384,
}
# Gates of random models give normal numbers of deviation 1, of which a fifth lies above 0.84. The bias
# puts that where lambda is 0.49.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
FULL, FIFTH = "full", "fifth"
BIAS = {FULL: 1e4, FIFTH: -0.88}
EXPERTS = (8, 64, 256)
DEPTH = 512
Seconds = dict[str, dict[str, list[float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    capacity = -(-(max(options.lengths) + DEPTH) // 64) * 64
    prompts = {name: _engine(options.work_dir, name, capacity, bias=bias) for name, bias in BIAS.items()}
    for name in (FULL, FIFTH) if options.before else ():
        prompts[f"{name}, before"] = options.before / name / "engine"
    steps = {f"{count} experts": _of_experts(options.work_dir, count, capacity) for count in options.experts}
    document = {
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "note": options.note,
        "model": MODEL,
        "threads": options.threads,
        "clock": options.clock,
        "share_of_full": _share(options.work_dir / FIFTH / "export"),
        "prefill": _prefills(prompts, options),
        "decode": _steps(steps, options),
    }
    print(write_receipt(options.output, f"asa-cpu-{document['day']}", document, page(document)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work-dir", type=Path, required=True, help="where models are made, and kept")
    parser.add_argument("--before", type=Path, help="--work-dir of an earlier version")
    parser.add_argument("--lengths", type=int, nargs="+", default=[2048, 8192], help="tokens of prompts")
    parser.add_argument("--experts", type=int, nargs="+", default=list(EXPERTS))
    parser.add_argument("--rounds", type=int, default=3, help="of prompts")
    parser.add_argument("--steps", type=int, default=40, help="of each number of experts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--note", default="", help="what else ran, for the page")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def _engine(work: Path, name: str, capacity: int, *, bias: float = BIAS[FIFTH], **changes: Any) -> Path:
    """Builds a random model's engine, unless it is there."""
    directory = work / name
    if (directory / "engine").exists():
        return directory / "engine"
    config = {**MODEL, **changes}
    module = _random_model(config, bias)
    save_checkpoint(module, directory / "checkpoint", config, dtype=torch.bfloat16)
    export = ExportConfig(
        checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=capacity
    )
    build = BuildConfig(
        model=export_checkpoint(export), arch="cpu", precision="fp32", output=directory / "engine"
    )
    return build_engine(build)


def _of_experts(work: Path, count: int, capacity: int) -> Path:
    name = FIFTH if count == MODEL["num_experts"] else f"experts.{count}"
    return _engine(work, name, capacity, num_experts=count)


@torch.no_grad()
def _random_model(config: Mapping[str, Any], bias: float) -> R1AsaForCausalLM:
    """Weights of variance 1 / columns, norms of 1, and every gate's bias."""
    module = R1AsaForCausalLM(model_config_from_dict(dict(config), where=Path("config.json")))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
        else:
            parameter.fill_(bias if name.endswith("lam_gate.bias") else float(name.endswith("norm.weight")))
    return module.eval()


def _share(export: Path) -> float:
    """Of the (token, head) pairs of 512 random tokens, those that weigh the full branch."""
    loaded = load_export(export)
    names = [str(n.outputs[0].name) for n in loaded.model.graph if n.op_type == "R1LambdaGate"]
    session = session_from_export(loaded.artifact, extra_outputs={name: name for name in names})
    with closing(session):
        session.reset(1)
        ids = np.asarray([_prompt(512)], np.int64)
        outputs = session.run(ids, np.array([512]), np.array([0]))
    return float(np.mean([outputs[name] >= MODEL["hla_lam_skip"] for name in names]))


def _prompt(length: int) -> list[int]:
    tokens: list[int] = np.random.default_rng(1).integers(2, MODEL["vocab_size"], length).tolist()
    return tokens


def _prefills(engines: Mapping[str, Path], options: argparse.Namespace) -> Seconds:
    sessions = {name: session_from_engine(path, threads=options.threads) for name, path in engines.items()}
    clock = CLOCKS[options.clock]
    found: Seconds = {str(length): {name: [] for name in sessions} for length in options.lengths}
    for length in options.lengths:
        for _ in range(options.rounds):
            for name, session in sessions.items():
                started = clock()
                prefill(session, [_prompt(length)])
                found[str(length)][name].append(clock() - started)
        print(length, {name: median(s) for name, s in found[str(length)].items()}, file=sys.stderr)
    for session in sessions.values():
        session.close()
    return found


def _steps(engines: Mapping[str, Path], options: argparse.Namespace) -> Seconds:
    sessions = {name: session_from_engine(path, threads=options.threads) for name, path in engines.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    steps = {
        name: _timed_steps(session, seconds[name], CLOCKS[options.clock])
        for name, session in sessions.items()
    }
    for _ in range(options.steps):
        for one in steps.values():
            next(one)
    for session in sessions.values():
        session.close()
    return {str(DEPTH): seconds}


def _timed_steps(session: Session, seconds: list[float], clock: Callable[[], float]) -> Iterator[None]:
    """Reads a prompt, then times a step each time it is asked for one; each takes another random token."""
    prefill(session, [_prompt(DEPTH)])
    one_B = np.ones(1, np.int64)
    for index, token in enumerate(_prompt(DEPTH)):
        started = clock()
        session.step(np.array([[token]]), one_B, one_B * (DEPTH + index))
        seconds.append(clock() - started)
        yield


def page(document: Mapping[str, Any]) -> str:
    """The figures as a page."""
    model = document["model"]
    lines = [
        f"# R1-ASA on a CPU, {document['day']}",
        "",
        f"`python scripts/benchmark_asa_cpu.py`, {document['machine']['cpu']}, "
        f"threads: {document['threads']}, clock: {document['clock']}. {document['note']}",
        f"Random models of {model['num_hidden_layers']} layers: width {model['hidden_size']}, "
        f"{model['num_attention_heads']} heads of {model['head_dim']} and "
        f"{model['num_key_value_heads']} of keys, {model['num_experts']} experts of "
        f"{model['moe_intermediate_size']} of which a token takes {model['top_k']}, and a shared one. With "
        f"`{FIFTH}`, {document['share_of_full']:.1%} of the (token, head) pairs weigh the full branch. "
        "Medians; in parentheses the least and the most.",
        "",
        *_table("prompt", "tokens", document["prefill"], FULL),
        "",
        *_table("step", "tokens before", document["decode"], next(iter(document["decode"][str(DEPTH)]))),
    ]
    return "\n".join(lines) + "\n"


def _table(what: str, size: str, seconds: Seconds, base: str) -> list[str]:
    """A row for each contender; the last column is how many times the time of `base` is its own."""
    lines = [f"| {size} | {what} | ms | `{base}` / this |", "|---:|---|---|---:|"]
    for length, found in seconds.items():
        for name, samples in found.items():
            low, middle, high = (1e3 * figure for figure in (min(samples), median(samples), max(samples)))
            ratio = median(found[base]) / median(samples)
            lines.append(f"| {length} | {name} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratio:.2f} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
