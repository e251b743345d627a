"""The exported R1-ASA graph and the kernels agree: whole layers with the kernels in the bodies' place.

ONNX's reference evaluator runs the exported graph and hands the three operators to the kernels, on the CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from export.agreement import FEEDS, Feed, exported_session, feed, random_prompts, relative_error
from kernels.build import build_library
from kernels.library import HostKernels
from kernels.onnx_operators import Array, Kernels, Tensors, operator_classes
from onnx.reference import ReferenceEvaluator
from tiny_checkpoints import write_r1_asa

from r1trt.export.io import load_export
from r1trt.model import load_checkpoint, recorded_decisions
from r1trt.ops.dynamic_rope import DYNAMIC_ROPE
from r1trt.ops.hla_attention import HLA_ATTENTION
from r1trt.ops.operator import DOMAIN, IR_VERSION
from r1trt.ops.registry import OPERATORS
from r1trt.plugin_checks.cases.arrays import BFLOAT16, DTYPES, FLOAT16, DataType
from r1trt.runtime.session import Session, SessionLimits

pytestmark = pytest.mark.slow

LENGTHS = (37, 23)
# Kernels have heads of 64 numbers and widths of a multiple of 16.
SIZES: dict[str, Any] = {"hidden_size": 64, "head_dim": 64, "moe_intermediate_size": 48, "dtype": "bfloat16"}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "adaptive, shared": {
        "adaptive_threshold": 0.6, "num_shared_experts": 1, "shared_intermediate_size": 48,
        "hla_inter_block": "all_to_first", "hla_lam_skip": 0.2,
    },
    "sigmoid groups": {
        "scoring": "sigmoid", "num_experts": 16, "n_group": 4, "topk_group": 2, "top_k": 4,
        "routed_scaling_factor": 2.5, "lam": "zero",
    },
}  # fmt: skip
# Rounding the operators' inputs and outputs, of the largest logit, through both layers.
OF_LARGEST_LOGIT = {BFLOAT16: 3e-2, FLOAT16: 4e-3}
# A rounded input may choose other experts: tokens this near to a tie are left out, and counted.
MARGIN = {BFLOAT16: 6e-3, FLOAT16: 1e-3}
MOST_LEFT_OUT = 0.5
# An operator by itself, from the same rounded inputs: of its largest output.
OF_LARGEST_OUTPUT = {BFLOAT16: 8e-3, FLOAT16: 1e-3}
ERRORS_ONLY = 3


def graph_of(export: Path) -> onnx.ModelProto:
    """The exported graph with its weights, without the bodies of the three operators."""
    exported = load_export(export)
    model = onnx.load(export / "model.onnx", load_external_data=False)
    onnx.external_data_helper.load_external_data_for_model(model, str(exported.weight_base))
    kept = [function for function in model.functions if function.name not in OPERATORS]
    del model.functions[:]
    model.functions.extend(kept)
    return model


class KernelSession:
    """A session of the exported graph whose operators the kernels compute.

    Args:
        export: An export directory.
        kernels: The kernels.
        observer: Sees every call of an operator.
    """

    def __init__(self, export: Path, kernels: Kernels, observer: Any = None) -> None:
        model = graph_of(export)
        self._graph = ReferenceEvaluator(model, new_ops=operator_classes(kernels, observer))
        self._outputs = [value.name for value in model.graph.output]
        self._cache_tails = {
            value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
            for value in model.graph.input
            if "_cache." in value.name
        }
        vocab_size = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
        self.limits = SessionLimits(
            vocab_size=vocab_size, capacity=next(iter(self._cache_tails.values()))[1], max_batch_size=None,
            max_input_len=None, last_token_logits=False,
        )  # fmt: skip

    def reset(self, batch: int) -> None:
        """Starts empty sequences."""
        self._caches = {
            name: np.zeros([batch, *tail], np.float32) for name, tail in self._cache_tails.items()
        }

    def step(self, ids: npt.NDArray[np.int64], seq_len: Any, past_len: Any) -> npt.NDArray[np.float32]:
        """Appends tokens; returns their logits."""
        inputs = {"input_ids": ids, "seq_len": seq_len, "past_len": past_len, **self._caches}
        outputs = dict(zip(self._outputs, self._graph.run(None, inputs), strict=True))
        self._caches = {name: outputs[name.replace("_cache.", "_cache_out.")] for name in self._caches}
        return np.asarray(outputs["logits"])

    def close(self) -> None:
        """Nothing to free."""


@dataclass(frozen=True)
class Exported:
    """A checkpoint and its export, with what ONNX Runtime makes of it.

    Attributes:
        checkpoint: The checkpoint's directory.
        directory: The export's.
        bodies: The exported graph with its own bodies.
    """

    checkpoint: Path
    directory: Path
    bodies: Session

    def prompts(self) -> list[npt.NDArray[np.int64]]:
        """Token ids of two sequences."""
        return random_prompts(LENGTHS, self.bodies.limits.vocab_size)


@pytest.fixture(scope="module")
def library() -> HostKernels:
    return HostKernels(build_library())


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    base = tmp_path_factory.mktemp("exported")
    checkpoint = write_r1_asa(base / "checkpoint", **SIZES, **CASES[request.param])
    return Exported(checkpoint, base / "export", exported_session(checkpoint, base / "export"))


def clear_tokens(checkpoint: Path, prompt: npt.NDArray[np.int64], margin: float) -> npt.NDArray[np.bool_]:
    """Which of a prompt's tokens are far from every tie, by the PyTorch model."""
    module = load_checkpoint(checkpoint, torch.float32)
    with torch.no_grad(), recorded_decisions(module) as decisions:
        module(torch.from_numpy(prompt)[None])
    return np.asarray(decisions.margin_BS()[0].numpy() >= margin)


def largest_error(exported: Exported, kernels: Kernels, calls: Feed) -> float:
    """Largest difference between both graphs' logits of clear tokens, as a share of the largest logit."""
    session = KernelSession(exported.directory, kernels)
    prompts = exported.prompts()
    errors = []
    for prompt, want, got in zip(
        prompts, feed(exported.bodies, prompts, calls), feed(session, prompts, calls), strict=True
    ):
        clear = clear_tokens(exported.checkpoint, prompt, MARGIN[kernels.data_type])[: len(want)]
        assert clear.mean() >= 1 - MOST_LEFT_OUT, f"only {clear.sum()} of {clear.size} tokens can be compared"
        errors.append(relative_error(got[clear], want[clear]))
    return max(errors)


@pytest.mark.parametrize("data_type", [BFLOAT16, FLOAT16], ids=lambda value: value.name)
@pytest.mark.parametrize("how", FEEDS)
def test_logits_are_the_exported_graphs(
    exported: Exported, library: HostKernels, how: str, data_type: DataType
) -> None:
    error = largest_error(exported, Kernels(library, data_type), FEEDS[how])
    assert error <= OF_LARGEST_LOGIT[data_type], f"{error:.2e} of the largest logit"


class OtherBlocks(Kernels):
    """Kernels that take the blocks of the attention for smaller ones."""

    def attention(self, inputs: Tensors, attributes: Mapping[str, Any]) -> tuple[Array, ...]:
        return super().attention(inputs, {**attributes, "block_size": 4})


def test_the_comparison_notices_other_blocks(exported: Exported, library: HostKernels) -> None:
    error = largest_error(exported, OtherBlocks(library, BFLOAT16), FEEDS["prefill"])
    assert error > 2 * OF_LARGEST_LOGIT[BFLOAT16]


class OperatorCheck:
    """Compares every call of an operator with its exported body's outputs for the same rounded inputs.

    Args:
        export: The export directory, whose bodies are run by ONNX Runtime.
        data_type: The kernels' type.
    """

    def __init__(self, export: Path, data_type: int) -> None:
        model = onnx.load(export / "model.onnx", load_external_data=False)
        self.bodies = {function.name: function for function in model.functions if function.name in OPERATORS}
        self.opsets, self.data_type = model.opset_import, data_type
        self.errors: dict[str, list[float]] = {operator: [] for operator in OPERATORS}

    def __call__(
        self, name: str, attributes: dict[str, Any], inputs: dict[str, Any], outputs: tuple[Any, ...]
    ) -> None:
        """An observer of the kernels' calls."""
        rounded = {key: self._rounded(key, value) for key, value in inputs.items() if value is not None}
        wanted = self._body(name, attributes, rounded, len(outputs))
        if name == HLA_ATTENTION.name:
            self._check_caches(rounded, outputs[1:], wanted[1:])
            outputs, wanted = outputs[:1], wanted[:1]
        real = np.ones(outputs[0].shape[:2], bool)
        if "seq_len" in rounded:
            real = np.arange(real.shape[1]) < rounded["seq_len"][:, None]
        self.errors[name] += [
            relative_error(got[real], want[real]) for got, want in zip(outputs, wanted, strict=True)
        ]

    def _check_caches(self, inputs: Mapping[str, Any], outputs: Sequence[Any], wanted: Sequence[Any]) -> None:
        """What the sequences hold now is the same; the body also writes padding, which nobody reads."""
        held = inputs["past_len"] + inputs["seq_len"]
        for got, want in zip(outputs, wanted, strict=True):
            for row, count in enumerate(held):
                np.testing.assert_array_equal(got[row, :, :count], want[row, :, :count])

    def _rounded(self, key: str, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """As an operator's kernels see it; what they take in FP32 stays."""
        if value.dtype == np.int64 or key in ("inv_freq", "lam", "w_router", "router_bias"):
            return value
        return value.astype(DTYPES[self.data_type]).astype(np.float32)

    def _body(
        self, name: str, attributes: Mapping[str, Any], inputs: Mapping[str, Any], outputs: int
    ) -> list[npt.NDArray[Any]]:
        operator = OPERATORS[name]
        results = list(operator.outputs[:outputs])
        names = [key if key in inputs else "" for key in operator.inputs]
        node = onnx.helper.make_node(name, names, results, domain=DOMAIN, **attributes)
        value = onnx.helper.make_tensor_value_info
        types = {key: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for key, array in inputs.items()}
        graph = onnx.helper.make_graph(
            [node], name, [value(key, types[key], array.shape) for key, array in inputs.items()],
            [value(key, onnx.TensorProto.FLOAT, None) for key in results],
        )  # fmt: skip
        model = onnx.helper.make_model(
            graph, functions=[self.bodies[name]], opset_imports=self.opsets, ir_version=IR_VERSION
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = ERRORS_ONLY  # caches that are not updated in place are right here
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(results, dict(inputs)))


@pytest.mark.parametrize("data_type", [BFLOAT16, FLOAT16], ids=lambda value: value.name)
def test_every_operator_is_its_body(exported: Exported, library: HostKernels, data_type: DataType) -> None:
    check = OperatorCheck(exported.directory, data_type)
    session = KernelSession(exported.directory, Kernels(library, data_type), check)
    for calls in FEEDS.values():
        feed(session, exported.prompts(), calls)
    layers_of_calls = 2 * sum(map(len, FEEDS.values()))
    for operator, errors in check.errors.items():
        assert len(errors) == layers_of_calls * (2 if operator == DYNAMIC_ROPE.name else 1)
        assert max(errors) <= OF_LARGEST_OUTPUT[data_type], (
            f"{operator}: {max(errors):.2e} of its largest output"
        )
