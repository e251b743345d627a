"""What the worker, the session and the read-back use of TensorRT's module exists in TensorRT 11.4's bindings.

Names and arguments are collected from the source, so that what NVIDIA renames is found here and not on the
machine with the GPU.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from harness.api_uses import MODULE, Use, uses_of_module
from harness.compile import REPOSITORY

from r1trt.build.builder_api import NATIVE_LAYERS

HARNESS = Path(__file__).parent / "harness"
PACKAGE = REPOSITORY / "r1trt"
BUILD = ("builder_api", "callbacks", "read_back", "timing_cache", "worker")
FILES = [
    *(PACKAGE / "build" / f"{name}.py" for name in BUILD),
    *(PACKAGE / "runtime").glob("tensorrt_*.py"),
    PACKAGE / "profile" / "tensorrt.py",
]
# Of TensorRT-RTX alone: the target GPU is named there.
RTX_ONLY = {
    "ComputeCapability",
    "ComputeCapability.__members__.startswith",
    "ComputeCapability.__members__",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
}
# The modules are packages, which say it beside the bindings.
OF_THE_PACKAGE = {"__version__"}
SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((?P<parameters>.*)\) -> ", re.MULTILINE)


@cache
def uses() -> tuple[Use, ...]:
    return tuple(use for path in FILES for use in uses_of_module(path))


def looked_up(module: str, scratch: Path) -> dict[str, str | None]:
    native = {f"INetworkDefinition.{name}" for name in NATIVE_LAYERS}
    names = sorted({use.name for use in uses()} - OF_THE_PACKAGE | native)
    child = subprocess.run(
        [sys.executable, HARNESS / "api_child.py", module, scratch],
        env={**os.environ, "PYTHONPATH": str(HARNESS.parent)},
        input=json.dumps(names), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_no_file_that_uses_the_module_is_left_out() -> None:
    using = {path for path in PACKAGE.rglob("*.py") if any(name_of(node) == MODULE for node in nodes(path))}
    assert using <= set(FILES)


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def name_of(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None


def test_the_uses_are_found_in_the_source() -> None:
    names = {use.name for use in uses()}
    assert len(names) > 60
    assert names >= {
        "Builder.create_network", "OnnxParser.parse", "INetworkDefinition.get_layer", "ILayer.metadata",
        "IBuilderConfig.set_preview_feature", "IBuilderConfig.set_timing_cache", "BuilderFlag",
        "PreviewFeature", "ProfilingVerbosity.DETAILED", "IOptimizationProfile.set_shape", "ITensor.dtype",
        "ITimingCache.combine",
        "Runtime.deserialize_cuda_engine", "ICudaEngine.get_tensor_profile_shape", "ParserError.node_name",
        "IExecutionContext.execute_async_v3", "IStreamWriter.__init__", "Logger.ERROR", "float32",
    }  # fmt: skip


@pytest.mark.parametrize("module", ["tensorrt", "tensorrt_rtx"])
def test_every_name_exists_and_takes_so_many_arguments(module: str, tmp_path: Path) -> None:
    found = looked_up(module, tmp_path)
    absent = RTX_ONLY if module == "tensorrt" else set()
    faults = []
    for use in uses():
        if use.name in absent | OF_THE_PACKAGE:
            continue
        text = found[use.name]
        if text is None:
            faults.append(f"{use.where}: {module} has no {use.name}")
        elif use.arguments is not None and not takes(text, use.arguments):
            faults.append(f"{use.where}: {use.name} with {use.arguments} arguments; {text.splitlines()[0]}")
    faults += [f"{module} has no {name}" for name in NATIVE_LAYERS if not found[f"INetworkDefinition.{name}"]]
    assert not faults, "\n".join(faults)


def takes(text: str, arguments: int) -> bool:
    """Whether one of the signatures in a help takes so many arguments; without one, anything goes."""
    signatures = [_parameters(match["parameters"]) for match in SIGNATURE.finditer(text)]
    counts = [
        (sum("=" not in parameter for parameter in own), len(own))
        for own in ([p for p in parameters if not p.startswith("self")] for parameters in signatures)
    ]
    return not counts or any(least <= arguments <= most for least, most in counts)


def _parameters(text: str) -> list[str]:
    """Splits at the commas that are in no brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(") - (letter in "])")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


@pytest.mark.parametrize(("arguments", "fits"), [(0, False), (1, False), (2, True), (3, True), (4, False)])
def test_signatures_are_counted(arguments: int, fits: bool) -> None:
    text = "parse(self: trt.OnnxParser, model: Buffer, path: dict[str, int], third: int = 3) -> bool\n\nHelp."
    assert takes(text, arguments) == fits
