"""Compares precision plans with NVIDIA's Model Optimizer on the same graph: KL divergence at equal bytes.

    python3.11 -m venv PEER && PEER/bin/pip install torch==2.13.0 'nvidia-modelopt[onnx]'
    python scripts/benchmark_modelopt.py EXPORT --name NAME --modelopt-python PEER/bin/python

The export becomes a graph of standard operators in FP32, `modelopt.onnx.quantization.quantize` puts static
FP8 scales into it from the text that r1trt calibrates on, and ONNX Runtime runs the result on the CPU over
text that neither has read. Beside it stand the rules' plan, all FP8, and for each of its sizes the plans of
least damage that are no larger. What does not run is said, with its reason. JSON and a page lie in DIR then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from machine import machine
from modelopt_graph import quantized_products, standard_graph
from receipts import write_receipt

from r1trt.calibrate.calibrate import CalibrationConfig
from r1trt.calibrate.text import token_chunks
from r1trt.data import CALIBRATION
from r1trt.evaluate.windows import Window
from r1trt.export.io import ExportedModel, load_export
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.rules import plan_from_rules
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session
from r1trt.runtime.prompts import documents_from_file, encoded_documents
from r1trt.search.chain import Array, ModelChain
from r1trt.search.config import Budget, SearchConfig
from r1trt.search.kinds import FP8_ROW, FP8_TENSOR, INT8_WEIGHTS
from r1trt.search.measure import Measured, Measurement
from r1trt.search.optimize import Options, Solution, cheapest_within, solution_of
from r1trt.search.run import measured_space
from r1trt.search.space import SearchSpace
from r1trt.search.texts import texts_of_search
from r1trt.search.times import device_for_arch
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

REPOSITORY = Path(__file__).resolve().parent.parent
_BATCH = 8
"""Windows of one call: a call quantizes all weights anew."""
_LINEARS: dict[str, Any] = {"op_types_to_quantize": ["MatMul"], "nodes_to_exclude": [".*attention/MatMul.*"]}
_BODY: dict[str, Any] = {**_LINEARS, "nodes_to_exclude": [*_LINEARS["nodes_to_exclude"], "lm_head/MatMul"]}
PEERS: dict[str, dict[str, Any]] = {
    "Model Optimizer, linears": {**_LINEARS, "calibration_method": "max"},
    "Model Optimizer, linears without the head": {**_BODY, "calibration_method": "max"},
    "Model Optimizer, largest magnitude": {"calibration_method": "max"},
    "Model Optimizer, as it comes": {},
}
"""What is asked of it beyond FP8. As it comes, it also quantizes both products of attention and what residual
additions read, and finds ranges of activations by entropy."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: Whose plan.
        bytes: Of the linears' weights, scales not counted.
        measured: What it costs; None where it did not run.
        facts: Whatever else is known, as the reason why it did not run.
    """

    name: str
    bytes: float | None
    measured: Measured | None
    facts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all rows are measured with."""

    export: ExportedModel
    space: SearchSpace
    final: Measurement
    windows: Sequence[Window]
    chunks: Sequence[Array]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    bench = _bench(options)
    rows = []
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        graph = standard_graph(bench.export, Path(folder) / "graph.onnx")
        for name, asked in PEERS.items():
            rows.append(_peer_row(bench, options.modelopt_python, graph, name, asked))
            print(rows[-1].name, rows[-1].measured or rows[-1].facts, flush=True)
    for row in _our_rows(bench, {row.bytes for row in rows if row.bytes is not None}):
        rows.append(row)
        print(row.name, row.measured, flush=True)
    _write(options, bench, rows)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("export", type=Path)
    parser.add_argument("--name", required=True, help="the model's name, for the page")
    parser.add_argument("--modelopt-python", type=Path, required=True, help="Python that has Model Optimizer")
    parser.add_argument("--arch", default="ada", help="whose plans are compared")
    parser.add_argument("--final-tokens", type=int, default=SearchConfig.final_tokens)
    parser.add_argument("--scratch", type=Path, help="where graphs are put meanwhile, several GB")
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    return parser


def _bench(options: argparse.Namespace) -> Bench:
    export = load_export(options.export)
    config = SearchConfig(
        model=options.export, arch=options.arch, budget=Budget(kl=1.0), minimize="bytes",
        final_tokens=options.final_tokens,
    )  # fmt: skip
    texts = texts_of_search(config, export)
    chain = ModelChain(export.model, export.weight_base)
    exact = plan_from_rules(export.model, options.arch, "fp32", backend="tensorrt-rtx")
    device = device_for_arch(options.arch)
    return Bench(
        export=export,
        space=measured_space(config, export, chain, exact, texts, device, _progress),
        final=Measurement(chain, exact, texts.final, "held-out", _progress),
        windows=texts.final,
        chunks=_calibration_chunks(export),
    )


def _progress(phase: str, done: int, total: int) -> None:
    if done % 20 == 0:
        print(f"{phase}: {done} of {total}", flush=True)


def _calibration_chunks(export: ExportedModel) -> Sequence[Array]:
    """What a plan's scales are measured on."""
    config = CalibrationConfig(tokenizer=export.artifact.path)
    encoded = encoded_documents(
        documents_from_file(CALIBRATION),
        tokenizer_from_dir(export.artifact.path),
        vocab_size=export.config.vocab_size,
    )
    return token_chunks(encoded, length=config.chunk, tokens=config.tokens)


def _peer_row(bench: Bench, python: Path, graph: Path, name: str, asked: Mapping[str, Any]) -> Row:
    output = graph.with_name("quantized.onnx")
    chunks, request = graph.with_name("chunks.npz"), graph.with_name("request.json")
    np.savez(chunks, *bench.chunks)
    request.write_text(json.dumps(dict(_asked_for(asked))), encoding="utf-8")
    script = Path(__file__).with_name("modelopt_peer.py")
    ran = subprocess.run(
        [python, script, graph, chunks, output, request],
        check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    if ran.returncode != 0:
        return _did_not_run(name, ran.stdout)
    facts = {**json.loads(ran.stdout.splitlines()[-1]), "options": _asked_for(asked)}
    try:
        session = inference_session(output, output.parent, LoadOptions())
        measured = bench.final.compare(_logits(session, bench.windows))
    except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
        return _did_not_run(name, str(error))
    products = quantized_products(onnx.load(output, load_external_data=False))
    return Row(name=name, bytes=_bytes(bench.space, products), measured=measured, facts=facts)


def _asked_for(asked: Mapping[str, Any]) -> dict[str, Any]:
    # What is not quantized stays in FP32, so that no other rounding is held against it.
    return {
        "quantize_mode": "fp8",
        "high_precision_dtype": "fp32",
        "log_level": "WARNING",
        **asked,
    }


def _did_not_run(name: str, said: str) -> Row:
    lines = said.strip().splitlines()
    return Row(name=name, bytes=None, measured=None, facts={"did not run": lines[-1] if lines else "no word"})


def _bytes(space: SearchSpace, products: set[str]) -> float:
    """Bytes of the linears' weights, in FP8 where the product of the layer's name is, else in BF16."""
    names = [name for group in space.groups for name in group.layers]
    return sum(space.costs.elements(name) * (1 if f"{name}/MatMul" in products else 2) for name in names)


def _logits(session: Any, windows: Sequence[Window]) -> Iterator[Array]:
    """Logits [S, V] of each window; neighbours of one length run together."""
    at = 0
    while at < len(windows):
        length = len(windows[at].input_ids)
        batch = [window.input_ids for window in windows[at : at + _BATCH] if len(window.input_ids) == length]
        feeds = {"input_ids": np.stack(batch), "seq_len": np.full(len(batch), length, np.int64)}
        yield from session.run(["logits"], feeds)[0]
        at += len(batch)


def _our_rows(bench: Bench, sizes: set[float]) -> Iterator[Row]:
    space = bench.space
    rules = space.of_plan(plan_from_rules(bench.export.model, space.base.arch, "fp8"))
    solutions = {
        **({} if rules is None else {"rules": rules}),
        "all FP8": space.all_of(FP8_TENSOR.name),
        "all FP8 by row": space.all_of(FP8_ROW.name),
    }
    for name, solution in solutions.items():
        yield _our_row(bench, space, name, solution)
    products_alone = _without(space, INT8_WEIGHTS.name)
    for size in sorted(sizes):
        name = f"searched, at most {size / 1e6:.1f} MB"
        yield _our_row(bench, space, name, least_damage(space, size))
        alone = least_damage(products_alone, size)
        yield _our_row(bench, products_alone, f"{name}, FP8 times FP8 alone", alone)


def _without(space: SearchSpace, kind: str) -> SearchSpace:
    groups = [
        replace(group, choices=tuple(choice for choice in group.choices if choice.kind != kind))
        for group in space.groups
    ]
    return replace(space, groups=groups)


def least_damage(space: SearchSpace, size: float) -> Solution:
    """The choices of least damage whose weights are at most `size` bytes: the search, turned round."""
    options = space.options
    turned = [Options(damages=option.costs, costs=option.damages) for option in options]
    return solution_of(options, cheapest_within(turned, size).chosen)


def _our_row(bench: Bench, space: SearchSpace, name: str, solution: Solution) -> Row:
    plan: PrecisionPlan = space.plan(solution)
    point = space.point(name, solution)
    kinds = list(point.kinds.values())
    facts = {
        "groups": {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        "predicted": point.predicted,
    }
    return Row(name=name, bytes=point.bytes, measured=bench.final.measure(plan, name), facts=facts)


def _write(options: argparse.Namespace, bench: Bench, rows: Sequence[Row]) -> None:
    day = datetime.now(UTC).date().isoformat()
    document = {
        "model": options.name,
        "day": day,
        "arch": options.arch,
        "machine": machine(),
        "calibration_tokens": sum(map(len, bench.chunks)),
        "final_tokens": sum(len(window.input_ids) for window in bench.windows),
        "rows": [asdict(row) for row in rows],
    }
    print(write_receipt(options.output, f"precision-modelopt-{day}", document, page(document)))


def page(document: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    rows = document["rows"]
    versions: Mapping[str, str] = {}
    for row in rows:
        versions = row["facts"].get("versions", versions)
    tokens = f"{document['calibration_tokens']} tokens to calibrate on, {document['final_tokens']} held out"
    lines = [
        f"# Precision plans of {document['model']} beside Model Optimizer, {document['day']}",
        "",
        f"{tokens}, the same for all, in windows of 256,",
        "against the model in FP32; ONNX Runtime on a CPU computes every rounding. MB are linears' weights.",
        "Model Optimizer (a scale a column of weights, one an activation) keeps what it does not quantize in",
        "FP32; r1trt's plans round to BF16 there, too.",
        "",
        ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "",
        "| plan | MB | KL, nats (95 % interval) | perplexity (95 % interval) | agreement |",
        "|---|---:|---|---|---:|",
    ]
    return "\n".join([*lines, *map(_line, rows), ""])


def _line(row: Mapping[str, Any]) -> str:
    measured = row["measured"]
    if measured is None:
        return f"| {row['name']} | | did not run: {row['facts']['did not run']} | | |"
    kl, ppl = measured["kl"], measured["perplexity_increase"]
    return (
        f"| {row['name']} | {row['bytes'] / 1e6:.1f} | "
        f"{kl['mean']:.4f} ({kl['low']:.4f} to {kl['high']:.4f}) | "
        f"{100 * ppl['mean']:+.2f} % ({100 * ppl['low']:+.2f} to {100 * ppl['high']:+.2f}) | "
        f"{100 * measured['agreement']:.2f} % |"
    )


if __name__ == "__main__":
    sys.exit(main())
