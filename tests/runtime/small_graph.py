"""A language model small enough for NumPy to be its reference, with the interface of an exported graph.

`logits[s] = (sum of key rows 0..s + sum of value rows 0..s) @ head`, where token t's key row is
`embedding[t]` and its value row is twice that. The cache update stands in a model-local function, as in
exported graphs.

Legend: B batch, S tokens of one call, V vocabulary, C cache capacity, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from r1trt.ops.operator import DOMAIN, IR_VERSION, OPSET

VOCAB_SIZE, WIDTH = 96, 4
Array = npt.NDArray[np.float32]


def weights(seed: int = 0) -> tuple[Array, Array]:
    """Embedding [V, D] and head [D, V]."""
    generator = np.random.default_rng(seed)
    embedding = generator.standard_normal((VOCAB_SIZE, WIDTH)).astype(np.float32)
    head = generator.standard_normal((WIDTH, VOCAB_SIZE)).astype(np.float32)
    return embedding, head


def reference_logits(prompt: Sequence[int], seed: int = 0) -> Array:
    """Logits [S, V] of one sequence."""
    embedding, head = weights(seed)
    return (3 * np.cumsum(embedding[np.asarray(prompt)], axis=0) @ head).astype(np.float32)


def write_graph(path: Path, *, capacity: int | None, last_token_logits: bool = False, seed: int = 0) -> Path:
    """Writes the model; its weights go to `weights.bin` beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    caches = [] if capacity is None else ["key_cache.0", "value_cache.0"]
    nodes = [helper.make_node("Gather", ["embedding", "input_ids"], ["x"], name="model.embed_tokens")]
    nodes += _layer(caches)
    logits = "all_logits" if last_token_logits else "logits"
    nodes.append(helper.make_node("MatMul", ["h", "head"], [logits], name="lm_head"))
    shape: list[str | int] = ["B", "S", VOCAB_SIZE]
    if last_token_logits:
        nodes += _last_token()
        shape = ["B", VOCAB_SIZE]
    cache_shape = ["B", 1, capacity, WIDTH]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "S"]),
        helper.make_tensor_value_info("seq_len", TensorProto.INT64, ["B"]),
        helper.make_tensor_value_info("past_len", TensorProto.INT64, ["B"]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, cache_shape) for name in caches),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape),
        *(
            helper.make_tensor_value_info(name.replace(".", "_out."), TensorProto.FLOAT, cache_shape)
            for name in caches
        ),
    ]
    initializers = [
        numpy_helper.from_array(array, name)
        for name, array in zip(("embedding", "head"), weights(seed), strict=True)
    ]
    initializers.append(numpy_helper.from_array(np.array(1, np.int64), "const.1"))
    initializers.append(numpy_helper.from_array(np.array([2], np.float32), "const.two"))
    model = helper.make_model(
        helper.make_graph(nodes, "small", inputs, outputs, initializers),
        functions=[_attend_function(cached=capacity is not None)],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)],
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
    return path


def _layer(caches: Sequence[str]) -> list[onnx.NodeProto]:
    """Key rows from the embedding, value rows twice that; h = both attended, added."""
    nodes = [helper.make_node("Mul", ["x", "const.two"], ["v"])]
    for new, name, out in (("x", "key_cache.0", "k_sum"), ("v", "value_cache.0", "v_sum")):
        inputs = [new, name if caches else "", "past_len"]
        outputs = [out, name.replace(".", "_out.")] if caches else [out]
        nodes.append(helper.make_node("SmallAttend", inputs, outputs, domain=DOMAIN))
    nodes.append(helper.make_node("Add", ["k_sum", "v_sum"], ["h"], name="model.layers.0.mlp_residual"))
    return nodes


def _last_token() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Constant", [], ["axes.1"], value_ints=[1]),
        helper.make_node("Sub", ["seq_len", "const.1"], ["last"]),
        helper.make_node("Unsqueeze", ["last", "axes.1"], ["last_B1"]),
        helper.make_node("GatherND", ["all_logits", "last_B1"], ["logits"], batch_dims=1),
    ]


def _attend_function(*, cached: bool) -> onnx.FunctionProto:
    """(new [B,S,D], cache [B,1,C,D], past [B]) -> (sums of the rows up to each token [B,S,D], cache)."""
    text = """
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        rows = Unsqueeze (new, one)
        {update}
        key_dim = Shape <start = 2, end = 3> ({rows})
        query_dim = Shape <start = 1, end = 2> (new)
        zero = Constant <value_int = 0> ()
        step = Constant <value_int = 1> ()
        keys = Squeeze (key_dim)
        queries = Squeeze (query_dim)
        key_position = Range (zero, keys, step)
        query_offset = Range (zero, queries, step)
        past_column = Unsqueeze (past, one)
        position = Add (past_column, query_offset)
        position_column = Unsqueeze (position, two)
        seen = LessOrEqual (key_position, position_column)
        mask = Cast <to = 1> (seen)
        all_rows = Squeeze ({rows}, one)
        sums = MatMul (mask, all_rows)
    """
    update = "cache_out = TensorScatter <axis = 2> (cache, rows, past)" if cached else ""
    body = text.format(update=update, rows="cache_out" if cached else "rows")
    outputs = "(sums, cache_out)" if cached else "(sums)"
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {OPSET}]>'
    source = f"{header} SmallAttend (new, cache, past) => {outputs} {{ {body} }}"
    return onnx.parser.parse_function(source)
