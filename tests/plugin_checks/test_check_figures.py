"""Floors, ratios, aims and the page, on numbers that were made up or worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from r1trt.plugin_checks.bench import (
    attention_rows,
    moe_peers,
    moe_rows,
    peers,
    roofline,
    rope_rows,
    row_times,
    timing,
)
from r1trt.plugin_checks.bench.aims import (
    MICROSECONDS,
    OURS,
    RATIO,
    SHARE_OF_COPY,
    SHARE_OF_DATA_SHEET,
    Aim,
    Work,
    judged,
    ratios,
)
from r1trt.plugin_checks.bench.peers import PeerMissing, bound
from r1trt.plugin_checks.cases import moe_cases, moe_reference
from r1trt.plugin_checks.receipt import Receipt, open_receipt, read_receipt
from r1trt.plugin_checks.report import markdown, publish

HBM = 3.35e12
ALL_ROWS = [*attention_rows.ROWS, *moe_rows.ROWS, *rope_rows.ROWS]


@pytest.mark.parametrize(
    ("tokens", "full", "to_all", "to_first"),
    [
        (512, 131_328, 12_288, 8_568),
        (2048, 2_098_176, 98_304, 35_808),
        (8192, 33_558_528, 1_179_648, 167_808),
    ],
)
def test_pairs_of_attention(tokens: int, full: int, to_all: int, to_first: int) -> None:
    assert roofline.pairs_full(tokens) == full
    assert roofline.pairs_block(tokens, 32, all_to_first=True) == to_all
    assert roofline.pairs_block(tokens, 32, all_to_first=False) == to_first


def test_pairs_are_those_of_the_masks() -> None:
    for inter_block in (0, 1):
        case = attention_rows_case(inter_block)
        causal, block = attention_masks(case, 128)
        assert causal == roofline.pairs_full(128)
        assert block == roofline.pairs_block(128, 32, all_to_first=bool(inter_block))


def attention_rows_case(inter_block: int) -> Any:
    from r1trt.plugin_checks.cases.attention_cases import AttentionCase

    return AttentionCase(seq=128, inter_block=inter_block)


def attention_masks(case: Any, tokens: int) -> tuple[int, int]:
    import numpy as np

    from r1trt.plugin_checks.cases.attention_cases import key_masks

    causal, block = key_masks(case, np.arange(tokens), tokens)
    return int(causal.sum()), int(block.sum())


def test_floors_of_attention() -> None:
    operations = roofline.attention_operations(roofline.pairs_full(2048), 32, 128)
    assert roofline.floor_us(operations, 0, 989e12, HBM) == pytest.approx(34.8, abs=0.05)
    assert roofline.floor_us(0, roofline.prefill_bytes(2048, 32, 8, 128), 989e12, HBM) == pytest.approx(
        12.5, abs=0.05
    )
    assert roofline.floor_us(0, roofline.decode_bytes(2048, 8, 128, 1), 1, HBM) == pytest.approx(
        2.5, abs=0.05
    )
    seen = roofline.keys_of_block_branch(8192, 32)
    assert roofline.floor_us(0, roofline.decode_bytes(seen, 8, 128, 32), 1, HBM) == pytest.approx(
        11.3, abs=0.1
    )


@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "hidden", "width", "us"),
    [(1, 8, 2, 4096, 14336, 105), (8, 256, 8, 7168, 2048, 755), (128, 256, 8, 7168, 2048, 3309)],
)
def test_floors_of_experts(tokens: int, experts: int, top_k: int, hidden: int, width: int, us: float) -> None:
    size = roofline.moe_bytes(tokens, experts, top_k, hidden, width, 1)
    operations = roofline.moe_operations(tokens, top_k, hidden, width)
    assert roofline.floor_us(operations, size, 1979e12, HBM) == pytest.approx(us, rel=0.01)


def test_the_larger_floor_counts() -> None:
    assert roofline.floor_us(2e6, 1e6, 1e12, 1e12) == 2
    assert roofline.floor_us(1e6, 3e6, 1e12, 1e12) == 3


def test_data_sheets_by_name() -> None:
    h100 = roofline.data_sheet("NVIDIA H100 80GB HBM3")
    assert h100 is not None
    assert h100.bandwidth == 3.35e12
    assert roofline.data_sheet("NVIDIA H100 PCIe") is None


PEAKS: dict[str, float | None] = {"data_sheet": 2e12, "copy": 1e12}


@pytest.mark.parametrize(
    ("aim", "found", "met"),
    [
        (Aim(measure=RATIO, limit=3, peer=("A",)), 4.0, True),
        (Aim(measure=RATIO, limit=3, peer=("A", "B", "C")), 2.0, False),
        (Aim(measure=SHARE_OF_DATA_SHEET, limit=0.25), 0.25, True),
        (Aim(measure=SHARE_OF_COPY, limit=0.6), 0.5, False),
        (Aim(measure=MICROSECONDS, limit=2), 2.0, True),
        (Aim(measure=MICROSECONDS, limit=1.9), 2.0, False),
    ],
    ids=str,
)
def test_aims(aim: Aim, found: float, met: bool) -> None:
    entry = judged(aim, {OURS: 2.0, "A": 8.0, "B": 4.0}, Work(size=1e6), PEAKS)
    assert entry["found"] == pytest.approx(found)
    assert entry["met"] is met


def test_an_aim_without_its_peer_or_peak_is_neither_met_nor_missed() -> None:
    ratio = judged(Aim(measure=RATIO, limit=3, peer=("C",)), {OURS: 2.0}, Work(size=1), PEAKS)
    assert (ratio["met"], ratio["why"]) == (None, "not measured: C")
    share = judged(Aim(measure=SHARE_OF_COPY, limit=1), {OURS: 2.0}, Work(size=1), {"copy": None})
    assert (share["met"], "not known" in share["why"]) == (None, True)
    assert judged(Aim(measure=MICROSECONDS, limit=1), {}, Work(), PEAKS)["met"] is None


@pytest.mark.parametrize("fields", [{"measure": "speed", "limit": 1}, {"measure": RATIO, "limit": 1}])
def test_an_aim_must_be_measurable(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="an aim"):
        Aim(**fields)


def test_ratios_are_of_the_peers_times_to_ours() -> None:
    assert ratios({OURS: 2.0, "A": 3.0}) == {"A": 1.5}
    assert ratios({"A": 3.0}) == {}


def test_a_summary_is_of_all_rounds() -> None:
    found = timing.summary([[1.0, 9.0, 2.0], [3.0, 3.0, 4.0]])
    assert found == {"us": 3.0, "us_of_rounds": [2.0, 3.0], "samples": 6}


def test_outputs_are_compared_by_their_norms() -> None:
    ours = torch.tensor([3.0, 4.0])
    assert timing.disagreement(ours, torch.tensor([[3.0, 4.5]])) == pytest.approx(0.1)
    assert row_times.difference_fault({"A": 0.05}) == ""
    assert "A" in row_times.difference_fault({"A": 0.2})
    assert "A" in row_times.difference_fault({"A": None})


def test_rows_have_names_of_their_own_and_work() -> None:
    names = [row.name for row in ALL_ROWS]
    assert len(set(names)) == len(names)
    assert all(row.work.size > 0 for row in ALL_ROWS)
    aims = {row.name: [str(aim) for aim in row.aims] for row in ALL_ROWS}
    assert aims["attention prefill, lam zeros, B=1, N=2048"] == [">= 3x FA3, full"]
    assert aims["attention prefill, lam zeros, B=1, N=8192"] == [">= 8x FA3, full"]
    assert ">= 85% of data sheet bandwidth" in aims["attention decode, dense, B=32, L=8192"]
    assert aims["router selection, 256 experts, top 8, 7168/2048, T=64"] == ["<= 2.4 us"]
    assert aims["permute bf16, 256 experts, top 8, 7168/2048, T=4096"] == [">= 80% of copy bandwidth"]
    assert ">= 90% of copy bandwidth" in aims["rope bf16, temperature, T=8192"]


def test_torchs_routing_is_the_definition() -> None:
    case = moe_cases.MoeCase(
        seq=30, experts=32, top_k=8, sigmoid=True, method=moe_cases.GROUP_TWO_HIGHEST, n_group=8,
        topk_group=4, scaling=2.5,
    )  # fmt: skip
    problem = moe_cases.make_problem(case)
    assert problem.bias is not None
    x = torch.tensor(problem.x.astype("float64")).reshape(case.seq, -1)
    logits = x @ torch.tensor(problem.w_router).double().T
    weights, experts = moe_peers.route(
        logits, torch.tensor(problem.bias), top_k=8, n_group=8, topk_group=4, scaling=2.5, sigmoid=True
    )
    for token in range(case.seq):
        want_experts, want_weights, _ = moe_reference.route(case, problem, x[token].numpy())
        found = dict(zip(experts[token].tolist(), weights[token].tolist(), strict=True))
        assert found == pytest.approx(dict(zip(want_experts, want_weights, strict=True)))


def test_operators_are_called_by_the_names_of_their_schema() -> None:
    x = torch.tensor([1.0, 3.0])
    assert bound(torch.ops.aten.clone, self=x)().tolist() == [1.0, 3.0]
    assert bound(torch.ops.aten.clone, self=x, where_named={"other": x})().tolist() == [1.0, 3.0]
    with pytest.raises(PeerMissing, match="has no other"):
        bound(torch.ops.aten.clone, self=x, other=x)
    with pytest.raises(PeerMissing, match="wants self"):
        bound(torch.ops.aten.clone)


def test_a_missing_peer_says_what_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.PEER_VARIABLE, str(tmp_path))
    with pytest.raises(PeerMissing, match=r"import no_such_module.*lib\.so"):
        peers.operator("lib.so", ("no_such_module",), "no_such_space", "no_such_operator")


LIMITS = {
    "data_sheet": {"bf16": 1e15, "fp8": 2e15, "bandwidth": 2e12},
    "copy": 1e12,
    "bf16": 5e14,
    "left_out": {"fp8": "why"},
}


def entry_of(row: Any, times: dict[str, float], **more: Any) -> dict[str, Any]:
    entry = {
        "name": row.name,
        "left_out": {},
        "times": {name: {"us": us} for name, us in times.items()},
        **more,
    }
    row_times.finish(entry, row, LIMITS)
    return entry


def test_a_row_is_finished_with_floors_ratios_and_aims() -> None:
    row = attention_rows.PrefillRow(tokens=2048, aims=(Aim(measure=RATIO, limit=3, peer=("FA3, full",)),))
    entry = entry_of(row, {OURS: 50.0, "FA3, full": 100.0})
    assert entry["ratios"] == {"FA3, full": 2.0}
    assert entry["floor_us"]["measured"] == pytest.approx(2 * entry["floor_us"]["data_sheet"], rel=0.01)
    assert entry["floor_over_ours"]["measured"] == pytest.approx(entry["floor_us"]["measured"] / 50)
    assert entry["aims"][0]["met"] is False
    assert "why" not in entry


def test_a_row_fails_without_our_time_or_with_another_output() -> None:
    row = rope_rows.RopeRow(tokens=8192)
    assert "did not run" in entry_of(row, {"torch.compile": 3.0})["why"]
    assert "outputs differ" in entry_of(row, {OURS: 3.0}, disagreement={"torch.compile": 0.5})["why"]


def test_the_selection_is_what_the_router_takes_without_its_logits() -> None:
    row = moe_rows.RouterRow(tokens=64)
    entry = entry_of(row, {moe_rows.WITH_LOGITS: 7.0, moe_rows.LOGITS_ALONE: 4.0, "torch.compile": 6.0})
    assert entry["times"][OURS]["us"] == 3.0
    assert "less" in entry["times"][OURS]["derived"]
    assert entry["ratios"]["torch.compile"] == 2.0
    assert "did not run" in entry_of(row, {moe_rows.WITH_LOGITS: 7.0})["why"]


def made_up(path: Path) -> Receipt:
    header = {
        "mode": "gpu", "gpu": "Example 1", "sm": 90, "driver": "1", "cuda_driver": "13.0", "python": "3.11",
        "packages": {}, "commit": None, "sources": "abc",
    }  # fmt: skip
    receipt = open_receipt(path, header, seed=1)
    row = attention_rows.PrefillRow(tokens=2048, aims=(Aim(measure=RATIO, limit=3, peer=("FA3, full",)),))
    met = entry_of(row, {OURS: 20.0, "FA3, full": 100.0})
    missed = entry_of(rope_rows.RopeRow(tokens=8192), {OURS: 1000.0, "torch.compile": 900.0})
    missed["left_out"] = {"Liger": "PeerMissing: not there"}
    receipt.record(
        "check", {"cases": [{"name": "a", "passed": True, "error": 0.25}], "failures": []}, finished=True
    )
    receipt.record("time", {"ceilings": LIMITS, "rows": [met, missed], "failures": []}, finished=True)
    return receipt


def test_the_page_has_ratios_judgements_and_who_was_left_out(tmp_path: Path) -> None:
    receipt = made_up(tmp_path / "receipt.json")
    text = markdown(receipt)
    assert markdown(read_receipt(receipt.path)) == text
    assert "| check | 1 | 0 | 0.25 |" in text
    assert "FA3, full 100.00 (5.00x)" in text
    assert ">= 3x FA3, full: met (5)" in text
    assert ">= 1x torch.compile: missed (0.9)" in text
    assert "- Liger: PeerMissing: not there" in text
    assert "Not run: build, sanitize, harness, graph." in text


def test_a_page_is_published_beside_its_receipt(tmp_path: Path) -> None:
    receipt = made_up(tmp_path / "receipt.json")
    paths = publish(receipt, tmp_path / "benchmarks")
    assert [path.suffix for path in paths] == [".json", ".md"]
    assert paths[0].stem == f"operators_example-1_{receipt.content['started'][:10]}"
    assert all(path.is_file() for path in paths)
