"""Builds for the CPU, run: every node that was executed belongs to what the plan calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cpu_engines import cpu_engine, tiny_engine
from tiny_checkpoints import write_deepseek, write_llama, write_r1_asa

from r1trt.errors import ConfigError, UsageError
from r1trt.profile.breakdown import OUTSIDE
from r1trt.profile.options import BREAKDOWNS
from r1trt.profile.places import OTHER
from r1trt.profile.profile import ProfileConfig, profile_model
from r1trt.profile.result import Profile

__all__ = ["tiny_engine"]

WRITERS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: write_llama(path, tokenizer=True),
    "deepseek_v3": write_deepseek,
    "r1_asa": lambda path: write_r1_asa(path, num_shared_experts=1, shared_intermediate_size=48),
}


@pytest.fixture(scope="module", params=WRITERS)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("measured")
    checkpoint = WRITERS[request.param](directory / "checkpoint")
    return cpu_engine(checkpoint, directory, max_seq_len=64, rows=2)


def profile(engine: Path, tmp_path: Path, **options: object) -> Profile:
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps({"prompt_tokens": [20, 9], "new_tokens": 4}))
    return profile_model(ProfileConfig(model=str(engine), input=requests, threads=1, **options))  # type: ignore[arg-type]


def test_measured_rows_add_up(engine: Path, tmp_path: Path) -> None:
    for breakdown in BREAKDOWNS:
        found = profile(engine, tmp_path, breakdown=breakdown, repeats=1)
        assert found.measured is not None and found.measured.backend.startswith("onnxruntime ")
        assert [phase.name for phase in found.phases] == ["prefill", "decode"]
        for phase in found.phases:
            assert phase.measured is not None and phase.total.measured_seconds == phase.measured.seconds
            whole = sum(row.measured_seconds or 0.0 for row in phase.rows)
            assert whole == pytest.approx(phase.measured.seconds, rel=1e-6)
            assert sum(row.flops for row in phase.rows) == phase.total.flops
            assert sum(row.weight_bytes for row in phase.rows) <= phase.total.weight_bytes


def test_every_part_was_executed(engine: Path, tmp_path: Path) -> None:
    """All work is in rows that ran: what is computed in another's node counts there."""
    for phase in profile(engine, tmp_path, breakdown="part").phases:
        for row in phase.rows:
            assert (row.measured_seconds or 0.0) > 0 or row.name in (OTHER, OUTSIDE), row
            assert row.name in (OTHER, OUTSIDE) or row.cost.moved_bytes > 0, row
        included = {name for row in phase.rows for name in row.includes}
        assert "attn_residual" in included  # a norm's node adds
        assert not included & {row.name for row in phase.rows} - {"mlp_residual"}  # the last one runs alone


def test_nodes_of_no_layer_are_few(engine: Path, tmp_path: Path) -> None:
    measured = profile(engine, tmp_path).measured
    assert measured is not None
    for phase in measured.phases.values():
        names = {node.name for node in phase.nodes if not node.layers}
        inner = {name for name in names if name.startswith("model.layers.")}
        # Reshapes and slices between layers, named after what they make; and lengths and sizes.
        assert all("/" not in name.removeprefix("model.layers.") or "Fusion" in name for name in inner), inner
        assert {name.partition(".")[0].partition("/")[0] for name in names - inner} <= {
            *("attention", "last_token", "size", "past_len")
        }


def test_layers_are_in_their_order(engine: Path, tmp_path: Path) -> None:
    rows = profile(engine, tmp_path, breakdown="layer").phases[0].rows
    names = [row.name for row in rows if row.name not in (OTHER, OUTSIDE)]
    assert names == ["embedding", "layer 0", "layer 1", "norm", "head"]
    assert not any(row.includes for row in rows)


def test_a_build_is_not_run_where_nobody_wants_its_times(engine: Path, tmp_path: Path) -> None:
    for options in ({"measure": False}, {"metrics": ("flops",)}):
        found = profile(engine, tmp_path, **options)
        assert found.measured is None and found.phases[0].rows[0].measured_seconds is None


def test_a_build_can_be_held_to_another_roofline(engine: Path, tmp_path: Path) -> None:
    found = profile(engine, tmp_path, device="a100", repeats=1)
    assert found.device.name == "a100" and found.measured is not None


def test_what_a_build_does_not_take(engine: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="A build has its types"):
        profile(engine, tmp_path, precision="bf16")
    requests = tmp_path / "long.json"
    for content, message in (
        ({"prompt_tokens": 61, "new_tokens": 5}, "more tokens"),
        ({"batch": 3, "prompt_tokens": 6}, "more requests"),
    ):
        requests.write_text(json.dumps({"new_tokens": 1, **content}))
        with pytest.raises(ConfigError, match=message):
            profile_model(ProfileConfig(model=str(engine), input=requests))


def test_prompts_are_answered(tiny_engine: Path, tmp_path: Path) -> None:
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps({"prompts": ["Every function writes", "a"], "new_tokens": 2}))
    found = profile_model(ProfileConfig(model=str(tiny_engine), input=requests, repeats=1))
    assert len(set(found.requests.prompt_tokens)) == 2 and found.measured is not None
    assert any("are no padding" in note for note in found.notes)
    said = any("other processes took" in note for note in found.notes)
    assert 0 <= found.measured.others_share <= 1 and said == (found.measured.others_share > 0.05)


def test_a_build_for_scoring_reads_prompts_only(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "checkpoint")
    engine = cpu_engine(checkpoint, tmp_path, max_seq_len=64, rows=2, cache=False)
    found = profile_model(ProfileConfig(model=str(engine), repeats=1))
    assert [phase.name for phase in found.phases] == ["prefill"] and found.measured is not None
    assert found.phases[0].total.kv_bytes == 0 and found.cache_tokens == 0
    requests = tmp_path / "requests.json"
    requests.write_text(json.dumps({"prompt_tokens": 5, "new_tokens": 2}))
    with pytest.raises(ConfigError, match="of a build for scoring"):
        profile_model(ProfileConfig(model=str(engine), input=requests))
