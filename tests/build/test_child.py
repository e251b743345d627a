"""The real TensorRT-RTX parser and builder in their child process, on graphs that go well and others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from r1trt.artifacts.profiles import InputRange, OptimizationProfile, save_profiles
from r1trt.build.child import BuildRequest, build_in_child
from r1trt.errors import BuildError

HEADER = '<ir_version: 10, opset_import: ["" : 24]>'
SM = 89
# Two Attention nodes over one query: TensorRT-RTX 1.7 dies of SIGSEGV while it builds.
CRASHING = (
    "g (bfloat16[B,8,S,64] q, bfloat16[B,2,1024,64] k, bfloat16[B,2,1024,64] v, bfloat16[B,2,1024,64] k2, "
    "bfloat16[B,2,1024,64] v2) => (bfloat16[B,8,S,64] y) "
    "{ a = Attention(q, k, v) b = Attention(q, k2, v2) y = Add(a, b) }"
)
LAYERS = (
    " ".join(
        f"x{i + 1} = MatMul(x{i}, w) r{i + 1} = Relu(x{i + 1}) s{i + 1} = Softmax(r{i + 1})"
        for i in range(150)
    )
    .replace("MatMul(x", "MatMul(s")
    .replace("MatMul(s0", "MatMul(x0")
)
LONG = f"g (float[B,64] x0, float[64,64] w) => (float[B,64] s150) {{ {LAYERS} }}"


def request_of(
    directory: Path, graph: str | bytes, profile: dict[str, InputRange] | None = None
) -> BuildRequest:
    """A request for one engine; a graph is ONNX text, or a file's bytes."""
    path = directory / "typed.onnx"
    if isinstance(graph, bytes):
        path.write_bytes(graph)
    else:
        onnx.save(onnx.parser.parse_model(HEADER + graph), path)
    profiles = [
        OptimizationProfile(
            name="prefill", inputs=profile or {"x": InputRange(min=(1, 8), opt=(2, 8), max=(4, 8))}
        )
    ]
    save_profiles(profiles, directory / "profiles.json")
    return BuildRequest(backend="tensorrt-rtx", directory=directory, graph=path, engines={SM: "engine.plan"})


def ignore(layers: list[dict[str, Any]]) -> None:
    pass


def test_a_good_graph_gives_an_engine_layers_and_progress(tmp_path: Path) -> None:
    request = request_of(
        tmp_path,
        "g (float[B,8] x, float[8,8] w) => (float[B,8] y) { y = MatMul(x, w) }",
        {
            "x": InputRange(min=(1, 8), opt=(2, 8), max=(4, 8)),
            "w": InputRange(min=(8, 8), opt=(8, 8), max=(8, 8)),
        },
    )
    seen: list[dict[str, Any]] = []
    phases: list[tuple[str, int, int]] = []
    version = build_in_child(request, on_network=seen.extend, progress=lambda *step: phases.append(step))
    assert version
    assert (tmp_path / "engine.plan").stat().st_size > 0
    assert [layer["type"] for layer in seen] == ["MATRIX_MULTIPLY"]
    assert phases[0] == ("parse", 0, 1)
    assert all(0 <= done <= total for _, done, total in phases)
    assert len({phase for phase, _, _ in phases}) > 3


def test_a_crash_names_the_signal_and_the_phase(tmp_path: Path) -> None:
    sizes = {"q": (8, None, 64)} | {name: (2, 1024, 64) for name in ("k", "v", "k2", "v2")}
    profile = {
        name: InputRange(
            **{
                point: (batch, *(tokens if size is None else size for size in rest))
                for point, batch, tokens in (("min", 1, 1), ("opt", 1, 128), ("max", 2, 512))
            }
        )
        for name, rest in sizes.items()
    }
    with pytest.raises(BuildError, match="SIGSEGV") as caught:
        build_in_child(request_of(tmp_path, CRASHING, profile), on_network=ignore)
    assert "phase" in caught.value.message
    assert caught.value.details["fix"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(b"", "not an ONNX model", id="empty, to the parser"),
        pytest.param(b"\x00garbage" * 40, "not a readable ONNX graph", id="garbage, to the reader"),
        pytest.param(b"\x08\x0a", "not an ONNX model", id="no graph, to the parser"),
    ],
)
def test_a_file_that_is_no_model_is_called_that(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BuildError, match=said) as caught:
        build_in_child(request_of(tmp_path, content), on_network=ignore)
    assert caught.value.details["where"] == "typed.onnx"


def test_a_refused_node_is_named(tmp_path: Path) -> None:
    graph = "g (bool[B,8] x) => (int64[2,N] y) { [layer_seven] y = NonZero(x) }"
    with pytest.raises(BuildError, match="parser refused") as caught:
        build_in_child(request_of(tmp_path, graph), on_network=ignore)
    assert "layer_seven" in caught.value.details["found"]
    assert "NonZero" in caught.value.details["found"]
    assert "cudaError" not in str(caught.value)


def test_fp8_for_sm80_gives_the_builders_reason(tmp_path: Path) -> None:
    graph = (
        "g (float[B,8] x) => (float[B,8] y) <float s = {0.1}> "
        "{ q = QuantizeLinear <output_dtype = 17> (x, s) y = DequantizeLinear <output_dtype = 1> (q, s) }"
    )
    request = request_of(tmp_path, graph)
    request = BuildRequest(
        backend=request.backend, directory=tmp_path, graph=request.graph, engines={80: "engine.plan"}
    )
    with pytest.raises(BuildError, match="no engine for SM80") as caught:
        build_in_child(request, on_network=ignore)
    assert "fp8_e4m3" in caught.value.details["found"]
    assert "cudaError" not in caught.value.details["found"]


def test_an_objection_to_the_network_ends_the_build(tmp_path: Path) -> None:
    def object_to(layers: list[dict[str, Any]]) -> None:
        raise BuildError("not like this")

    request = request_of(tmp_path, "g (float[B,8] x) => (float[B,8] y) { y = Relu(x) }")
    with pytest.raises(BuildError, match="not like this"):
        build_in_child(request, on_network=object_to)
    assert not (tmp_path / "engine.plan").exists()


PROGRAM = """
import sys
from pathlib import Path
from r1trt.build.child import BuildRequest, build_in_child
directory = Path(sys.argv[1])
def progress(phase, done, total):
    if phase not in ("parse",):
        print("building", flush=True)
graph, engines = directory / "typed.onnx", {89: "engine.plan"}
request = BuildRequest(backend="tensorrt-rtx", directory=directory, graph=graph, engines=engines)
build_in_child(request, on_network=lambda layers: None, progress=progress)
"""


def children_of(process: int) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == process and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl_c", "killed"])
def test_the_child_ends_with_its_parent(tmp_path: Path, how: signal.Signals) -> None:
    weights = InputRange(min=(64, 64), opt=(64, 64), max=(64, 64))
    inputs = InputRange(min=(1, 64), opt=(8, 64), max=(16, 64))
    request_of(tmp_path, LONG, {"x0": inputs, "w": weights})
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None and parent.stderr is not None
    with parent:
        assert parent.stdout.readline() == "building\n"
        (child,) = children_of(parent.pid)
        os.kill(parent.pid, how)
        parent.communicate(timeout=60)
        deadline = time.monotonic() + 30
        while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists(), "the builder outlived its parent"
    assert parent.returncode in (-how, 128 + how, 1)


def test_external_weights_beside_the_graph_are_found(tmp_path: Path) -> None:
    graph = "g (float[B,8] x) => (float[B,8] y) { y = MatMul(x, w) }"
    model = onnx.parser.parse_model(HEADER + graph)
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    model.graph.initializer.append(weight)
    onnx.save(
        model, tmp_path / "big.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    request = request_of(tmp_path, (tmp_path / "big.onnx").read_bytes())
    build_in_child(request, on_network=ignore)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(BuildError, match="parser refused") as caught:
        build_in_child(request, on_network=ignore)
    assert "w" in caught.value.details["found"]
