from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from r1trt.artifacts.profiles import InputRange, load_profiles, save_profiles
from r1trt.build.profile import BuildLimits, profiles_from_graph
from r1trt.errors import BuildError, ConfigError


def graph_of(**inputs: list[int | str]) -> ir.Graph:
    values = [ir.Value(name=name, shape=ir.Shape(dims)) for name, dims in inputs.items()]
    return ir.Graph(values, [], nodes=[], name="g")


LIMITS = BuildLimits(max_batch_size=4, max_input_len=64, capacity=128)


def test_prefill_and_decode_cover_the_graph() -> None:
    graph = graph_of(input_ids=["B", "S"], past_len=["B"], key_cache=["B", 2, 128, 16])
    prefill, decode = profiles_from_graph(graph, LIMITS)
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert prefill.inputs["input_ids"] == InputRange(min=(1, 1), opt=(1, 64), max=(4, 64))
    assert decode.inputs["input_ids"] == InputRange(min=(1, 1), opt=(4, 1), max=(4, 1))
    assert decode.inputs["key_cache"].max == (4, 2, 128, 16)


def test_a_graph_without_a_cache_has_no_decode_profile() -> None:
    limits = BuildLimits(max_batch_size=1, max_input_len=8, capacity=None)
    assert [profile.name for profile in profiles_from_graph(graph_of(input_ids=["B", "S"]), limits)] == [
        "prefill"
    ]


def test_profiles_survive_their_file(tmp_path: Path) -> None:
    profiles = profiles_from_graph(graph_of(input_ids=["B", "S"], past_len=["B"]), LIMITS)
    save_profiles(profiles, tmp_path / "profiles.json")
    assert load_profiles(tmp_path / "profiles.json") == profiles


def test_an_inverted_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="not ordered"):
        InputRange(min=(1, 8), opt=(1, 4), max=(1, 8))


def test_an_unknown_size_is_refused() -> None:
    with pytest.raises(BuildError, match="input 'x'"):
        profiles_from_graph(graph_of(x=["B", "T"]), LIMITS)


def test_a_call_longer_than_the_cache_is_refused() -> None:
    with pytest.raises(ConfigError, match="KV cache"):
        BuildLimits(max_batch_size=1, max_input_len=256, capacity=128)
