from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from cpu_engines import cpu_engine
from runtime import small_graph
from tiny_checkpoints import write_r1_asa

from r1trt.graph.outputs import graph_with_outputs
from r1trt.runtime.load import session_from_engine
from r1trt.runtime.onnxruntime_session import OnnxRuntimeSession
from r1trt.runtime.prefill import prefill, prefill_outputs
from r1trt.runtime.session import SessionError, SessionLimits
from r1trt.runtime.session_checks import check_call

CAPACITY = 16
TOLERANCE = 1e-5


def session_of(tmp_path: Path, capacity: int | None = CAPACITY, **options: int) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(small_graph.write_graph(tmp_path / "model.onnx", capacity=capacity), **options)


def random_prompts(*lengths: int) -> list[list[int]]:
    generator = np.random.default_rng(3)
    return [generator.integers(0, small_graph.VOCAB_SIZE, length).tolist() for length in lengths]


def assert_close(got: np.ndarray, want: np.ndarray, case: object) -> None:
    error = np.abs(got - want).max() / np.abs(want).max()
    assert error < TOLERANCE, f"relative error {error} for {case}"


def step(session: OnnxRuntimeSession, ids: Sequence[Sequence[int]], past: Sequence[int]) -> np.ndarray:
    ids_BS = np.array(ids, np.int64)
    return session.step(ids_BS, np.full(len(ids), ids_BS.shape[1], np.int64), np.array(past, np.int64))


@pytest.mark.parametrize("chunk", [None, 1, 3, 5, 16])
def test_chunked_prefill_equals_the_reference(tmp_path: Path, chunk: int | None) -> None:
    session = session_of(tmp_path)
    prompts = random_prompts(13, 7, 16)
    parts: list[list[np.ndarray]] = [[] for _ in prompts]
    for _, seq_len_B, outputs in prefill_outputs(session, prompts, chunk):
        for row, count in enumerate(seq_len_B):
            parts[row].append(outputs["logits"][row, :count].copy())
    for row, prompt in enumerate(prompts):
        assert_close(np.concatenate(parts[row]), small_graph.reference_logits(prompt), (chunk, row))


def test_decode_after_prefill_equals_the_reference(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    whole = random_prompts(10, 12)
    last_BV = prefill(session, [whole[0][:4], whole[1][:6]], chunk=4)
    assert_close(last_BV[1], small_graph.reference_logits(whole[1])[5], "prefill")
    for new in range(6):
        logits_BSV = step(session, [[whole[0][4 + new]], [whole[1][6 + new]]], [4 + new, 6 + new])
        for row, position in ((0, 4 + new), (1, 6 + new)):
            want = small_graph.reference_logits(whole[row])[position]
            assert_close(logits_BSV[row, 0], want, (new, row))


def test_caches_are_updated_in_place(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    session.reset(2)
    before = {name: cache.ctypes.data for name, cache in session._caches.items()}
    step(session, [[5, 6, 7], [8, 9, 10]], [0, 0])
    embedding, _ = small_graph.weights()
    assert {name: cache.ctypes.data for name, cache in session._caches.items()} == before
    np.testing.assert_array_equal(session._caches["key_cache.0"][1, 0, :3], embedding[8:11])
    np.testing.assert_array_equal(session._caches["value_cache.0"][0, 0, :3], 2 * embedding[5:8])


def test_a_call_on_some_rows_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    prompts = random_prompts(6, 6, 6, 6)
    prefill(session, [prompt[:5] for prompt in prompts])
    before = {name: cache.copy() for name, cache in session._caches.items()}
    one_B = np.ones(2, np.int64)
    logits_BSV = session.step(np.array([[prompts[1][5]], [prompts[2][5]]]), one_B, 5 * one_B, first_row=1)
    for row in (1, 2):
        assert_close(logits_BSV[row - 1, 0], small_graph.reference_logits(prompts[row])[5], row)
    for name, cache in session._caches.items():
        np.testing.assert_array_equal(cache[[0, 3]], before[name][[0, 3]])
        assert (cache[1:3, :, 5] != before[name][1:3, :, 5]).any()


def test_a_row_can_be_moved_and_cleared(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    prompt = random_prompts(7)[0]
    prefill(session, [random_prompts(3)[0], random_prompts(4)[0], prompt[:6]])
    session.move(2, 0, 6)
    session.clear(2)
    one_B = np.ones(1, np.int64)
    logits_BSV = session.step(np.array([[prompt[6]]]), one_B, 6 * one_B)
    assert_close(logits_BSV[0, 0], small_graph.reference_logits(prompt)[6], "moved")
    assert not any(cache[2].any() for cache in session._caches.values())


def test_two_rows_can_change_places(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    prompts = random_prompts(7, 5, 3)
    prefill(session, [prompt[:-1] for prompt in prompts])
    session.swap(2, 0, 6)
    for row, prompt in ((0, prompts[2]), (1, prompts[1]), (2, prompts[0])):
        count = np.ones(1, np.int64)
        logits_BSV = session.step(np.array([[prompt[-1]]]), count, (len(prompt) - 1) * count, first_row=row)
        assert_close(logits_BSV[0, 0], small_graph.reference_logits(prompt)[-1], row)


@pytest.mark.parametrize("first_row", [-1, 2, 4])
def test_rows_outside_the_table(tmp_path: Path, first_row: int) -> None:
    session = session_of(tmp_path)
    session.reset(3)
    with pytest.raises(SessionError, match="from row"):
        session.step(np.zeros((2, 1), np.int64), np.ones(2, np.int64), np.zeros(2, np.int64), first_row)


def test_a_backend_whose_calls_begin_at_the_first_row() -> None:
    limits = SessionLimits(
        vocab_size=8,
        capacity=CAPACITY,
        max_batch_size=4,
        max_input_len=8,
        last_token_logits=False,
        addressable_rows=False,
    )
    arrays = (np.zeros((2, 1), np.int64), np.ones(2, np.int64), np.zeros(2, np.int64))
    check_call(limits, 4, 0, *arrays)
    with pytest.raises(SessionError, match="begin at the table's first row"):
        check_call(limits, 4, 1, *arrays)


def test_reset_forgets(tmp_path: Path) -> None:
    session = session_of(tmp_path)
    first = prefill(session, random_prompts(9)).copy()
    prefill(session, random_prompts(16, 16))
    np.testing.assert_array_equal(prefill(session, random_prompts(9)), first)


def test_graph_without_cache(tmp_path: Path) -> None:
    session = session_of(tmp_path, capacity=None)
    assert session.limits.capacity is None
    prompt = random_prompts(40)[0]
    session.reset(1)
    assert_close(step(session, [prompt], [0])[0], small_graph.reference_logits(prompt), "whole prompt")
    with pytest.raises(SessionError, match="no KV cache"):
        step(session, [prompt], [1])


def test_last_token_logits(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=CAPACITY, last_token_logits=True)
    session = OnnxRuntimeSession(path)
    assert session.limits.last_token_logits
    prompts = random_prompts(11, 4)
    last_BV = prefill(session, prompts, chunk=11)
    for row, prompt in enumerate(prompts):
        assert_close(last_BV[row], small_graph.reference_logits(prompt)[-1], row)


def test_weights_in_another_directory(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "checkpoint" / "model.onnx", capacity=CAPACITY)
    moved = tmp_path / "export" / "model.onnx"
    moved.parent.mkdir()
    path.rename(moved)
    session = OnnxRuntimeSession(moved, weight_base=path.parent)
    prompt = random_prompts(5)
    assert_close(prefill(session, prompt)[0], small_graph.reference_logits(prompt[0])[-1], "moved")
    with pytest.raises(SessionError, match="cannot load the graph"):
        OnnxRuntimeSession(moved)


def test_extra_outputs(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=CAPACITY)
    session = OnnxRuntimeSession(
        graph_with_outputs(path, ["h"]),
        weight_base=path.parent,
        outputs={"logits": "logits", "layer 0": "h"},
    )
    session.reset(1)
    results = session.run(np.array([[1, 2]]), np.array([2]), np.array([0]))
    embedding, head = small_graph.weights()
    np.testing.assert_allclose(results["layer 0"][0], 3 * np.cumsum(embedding[1:3], axis=0), rtol=1e-5)
    np.testing.assert_allclose(results["logits"], results["layer 0"] @ head, rtol=1e-4)


BAD_CALLS = {
    "cache full": ([[0] * 4], [4], [13], "cache is full"),
    "padding counts": ([[0] * 4], [1], [13], "padding included"),
    "too many tokens": ([[0] * 9], [9], [0], "more tokens than the engine accepts"),
    "length beyond the call": ([[0] * 4], [5], [0], "do not fit the call"),
    "negative length": ([[0] * 4], [-1], [0], "do not fit the call"),
    "negative past": ([[0] * 4], [4], [-1], "do not fit the call"),
    "id beyond the vocabulary": ([[0, 96]], [2], [0], "not in the vocabulary"),
    "negative id": ([[0, -1]], [2], [0], "not in the vocabulary"),
    "another batch": ([[0], [0]], [1, 1], [0, 0], "batch that the session was reset to"),
    "no tokens": ([[]], [0], [0], "batch that the session was reset to"),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_calls_that_do_not_fit(tmp_path: Path, case: str) -> None:
    ids, seq_len, past_len, message = BAD_CALLS[case]
    session = session_of(tmp_path, max_input_len=8, max_batch_size=4)
    session.reset(1)
    with pytest.raises(SessionError, match=message):
        session.step(np.array(ids, np.int64), np.array(seq_len), np.array(past_len))


def test_a_cache_that_no_memory_holds_says_what_it_needs(tmp_path: Path) -> None:
    # 2 caches of 4 FP32 elements a token: 2 GiB a row of 2^26 tokens.
    session = session_of(tmp_path, capacity=1 << 26)
    session.reset(1)
    with pytest.raises(SessionError, match="KV cache does not fit into this machine's memory") as caught:
        session.reset(1024)
    details = caught.value.details
    assert details["found"] == "2.2 TB for 1024 x 67108864 tokens"
    assert "--max-seq-len" in details["fix"] and "--rows" in details["fix"]
    with pytest.raises(SessionError) as caught:
        session_of(tmp_path, capacity=1 << 36).reset(1)
    assert "--rows" not in caught.value.details["fix"]


@pytest.mark.parametrize("batch", [0, 5])
def test_batches_that_do_not_fit(tmp_path: Path, batch: int) -> None:
    with pytest.raises(SessionError, match="does not fit the engine"):
        session_of(tmp_path, max_batch_size=4).reset(batch)


@pytest.mark.parametrize("lengths", [(), (3, 0), (17,)])
def test_prompts_that_do_not_fit(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    with pytest.raises(SessionError, match="no tokens" if lengths != (17,) else "longer than"):
        prefill(session_of(tmp_path), random_prompts(*lengths))


@pytest.mark.parametrize("shape", [["B", 1, "C", 4], ["B", "H", CAPACITY, 4], ["B", CAPACITY], []])
def test_caches_of_another_shape_are_refused(tmp_path: Path, shape: list[str | int]) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=CAPACITY)
    model = onnx.load(path, load_external_data=False)
    spare = onnx.helper.make_tensor_value_info("key_cache.1", onnx.TensorProto.FLOAT, shape)
    model.graph.input.append(spare)
    onnx.save(model, path)
    with pytest.raises(SessionError, match="not the toolchain's") as caught:
        OnnxRuntimeSession(path)
    assert "key_cache.1" in caught.value.details["found"]


@pytest.mark.parametrize("content", [None, b"", b"not a graph"])
def test_graphs_that_cannot_be_loaded(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SessionError):
        OnnxRuntimeSession(path)


def test_a_graph_without_the_output_of_a_cache_is_refused_at_a_call(tmp_path: Path) -> None:
    path = small_graph.write_graph(tmp_path / "model.onnx", capacity=16)
    model = onnx.load(path, load_external_data=False)
    kept = [value for value in model.graph.output if not value.name.startswith("key_cache")]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    path.write_bytes(model.SerializeToString())
    session = OnnxRuntimeSession(path)
    session.reset(1)
    with pytest.raises(SessionError, match="failed at a call"):
        session.step(np.ones((1, 2), np.int64), np.array([2]), np.array([0]))


def test_an_engine_leaves_out_logits_that_nobody_wants(tmp_path: Path) -> None:
    checkpoint = write_r1_asa(tmp_path / "checkpoint", tokenizer=True)
    engine = cpu_engine(checkpoint, tmp_path, max_seq_len=64, rows=2, last_token_logits=False)
    session = session_from_engine(engine)
    assert not session.limits.last_token_logits
    prompts = [list(range(3, 24)), list(range(40, 53))]
    last = np.zeros((2, session.limits.vocab_size), np.float32)
    for _, seq_len_B, outputs in prefill_outputs(session, prompts, 8):
        assert outputs["logits"].shape[1] == seq_len_B.max()
        for row in np.flatnonzero(seq_len_B):
            last[row] = outputs["logits"][row, seq_len_B[row] - 1]
    for _, _, outputs in prefill_outputs(session, prompts, 8, only_last=True):
        assert outputs["logits"].shape[:2] == (2, 1)
    assert_close(prefill(session, prompts, 8), last, "last tokens")
