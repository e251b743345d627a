from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from export.agreement import (
    FEEDS,
    TOLERANCE,
    exported_session,
    feed,
    random_prompts,
    relative_error,
    transformers_logits,
)
from families.deepseek_checks import assert_export_agrees, assert_prompts_agree
from families.family_builds import assert_cpu_engine_generates, assert_fp8_engine_obeys_its_plan, build
from families.family_checks import (
    assert_damage_is_refused,
    assert_refused,
    parameters,
    raw_config,
    read,
)
from safetensors.torch import load_file, save_file
from tiny_checkpoints import YARN, write_deepseek

from r1trt.artifacts import BuildArtifact
from r1trt.artifacts.export import ExportManifest
from r1trt.artifacts.manifest import read_manifest
from r1trt.checkpoint import checkpoint_from_dir
from r1trt.config import DenseConfig, MlaConfig, MoeConfig
from r1trt.errors import BuildError, CheckpointError, UnavailableError
from r1trt.families import is_ignored
from r1trt.runtime.graph_session import session_from_simulation

V3: dict[str, Any] = raw_config(
    "DeepseekV3ForCausalLM",
    "deepseek_v3",
    num_key_value_heads=4,
    q_lora_rank=12,
    kv_lora_rank=16,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=10,
    n_routed_experts=8,
    num_experts_per_tok=3,
    moe_intermediate_size=20,
    n_shared_experts=2,
    first_k_dense_replace=1,
    n_group=4,
    topk_group=2,
    norm_topk_prob=True,
    routed_scaling_factor=2.5,
)
# R1's own, as the hub has it.
R1_YARN = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
}
PLUGIN_SIZES = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "moe_intermediate_size": 32}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "as published": {"hub_spelling": True},
    "no low rank of queries": {"q_lora_rank": None},
    "no YaRN": {"rope": {"rope_type": "default"}},
    "no YaRN, as published": {"rope": {"rope_type": "default"}, "hub_spelling": True},
    "two magnitudes": {"rope": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.3}},
    "two magnitudes, as published": {
        "rope": {**YARN, "mscale": 1.6, "mscale_all_dim": 0.4},
        "hub_spelling": True,
    },
    "YaRN without magnitudes": {"rope": {"rope_type": "yarn", "factor": 4.0}},
    "RoPE by halves": {"rope_interleave": False},
    "1 group": {"n_group": 1, "topk_group": 1},
    "1 of 2 groups": {"n_group": 2, "topk_group": 1},
    "8 groups": {"n_routed_experts": 32, "n_group": 8, "topk_group": 3, "num_experts_per_tok": 5},
    "64 experts": {"n_routed_experts": 64, "n_group": 4, "topk_group": 3, "num_experts_per_tok": 6},
    "256 experts": {
        "n_routed_experts": 256,
        "n_group": 8,
        "topk_group": 4,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 12,
    },
    "4 experts": {"n_routed_experts": 4, "n_group": 2, "topk_group": 2, "num_experts_per_tok": 2},
    "all experts": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8},
    "2 shared experts": {"n_shared_experts": 2},
    "3 shared experts": {"n_shared_experts": 3},
    "weights not normalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.7},
    "wide values": {"v_head_dim": 24},
    "odd sizes": {
        "hidden_size": 57,
        "num_attention_heads": 3,
        "num_key_value_heads": 3,
        "q_lora_rank": 19,
        "kv_lora_rank": 23,
        "qk_nope_head_dim": 11,
        "qk_rope_head_dim": 6,
        "v_head_dim": 7,
        "intermediate_size": 41,
        "moe_intermediate_size": 13,
        "n_routed_experts": 9,
        "n_group": 3,
    },
    "another epsilon": {"rms_norm_eps": 0.3},
    "biases": {"attention_bias": True},
    "biases, no low rank of queries": {"attention_bias": True, "q_lora_rank": None},
    "experts in every layer": {"first_k_dense_replace": 0},
    "dense layers alone": {"first_k_dense_replace": 2},
    "tied": {"tie_word_embeddings": True},
    "sharded": {"max_shard_size": "50KB"},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
}  # fmt: skip


def write(directory: Path, **options: Any) -> Path:
    return write_deepseek(directory, **options)


def test_layers() -> None:
    config = read(V3, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    dense, first, second = config.layers
    assert (config.family, config.architecture) == ("deepseek_v3", "DeepseekV3ForCausalLM")
    assert dense.mlp == DenseConfig(width=48) and first == second
    assert first.mlp == MoeConfig(
        num_experts=8,
        expert_width=20,
        shared_width=40,
        scoring="sigmoid",
        topk_method="noaux_tc",
        top_k=3,
        norm_topk_prob=True,
        routed_scaling_factor=2.5,
        n_group=4,
        topk_group=2,
    )
    assert first.attention == MlaConfig(
        num_heads=4,
        q_lora_rank=12,
        kv_lora_rank=16,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=10,
        scale=10**-0.5,
    )
    assert (first.attention.qk_head_dim, first.attention.latent_dim) == (10, 20)
    assert (config.rope.rotary_dim, config.rope.interleaved) == (4, True)
    assert not read(V3, rope_interleave=False).rope.interleaved
    assert not config.is_continuous and config.window is None


def test_scores_carry_the_magnitude_squared() -> None:
    """And the rotation the quotient of the two magnitudes, see `r1trt.rope`."""
    config = read(V3, rope_theta=1e4, rope_scaling={**R1_YARN, "mscale": 0.707, "mscale_all_dim": 0.8})
    attention = config.layers[0].attention
    assert isinstance(attention, MlaConfig)
    magnitude = 0.1 * 0.8 * math.log(40) + 1
    assert attention.scale == pytest.approx(10**-0.5 * magnitude * magnitude, rel=1e-12)
    plain = read(V3, rope_theta=1e4, rope_scaling={**R1_YARN, "mscale": None, "mscale_all_dim": 0})
    assert plain.layers[0].attention.scale == pytest.approx(10**-0.5)  # type: ignore[union-attr]  # it is MLA


def test_both_spellings_mean_the_same() -> None:
    modern = {"rope_type" if key == "type" else key: value for key, value in R1_YARN.items()}
    hub = {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1, "ep_size": 1}
    published = read(V3, rope_theta=10000, rope_scaling=R1_YARN, num_nextn_predict_layers=1, **hub)
    assert read(V3, rope_parameters={**modern, "rope_theta": 10000}, num_nextn_predict_layers=1) == published
    assert published.num_nextn_layers == 1


def test_r1() -> None:
    """Its own config.json, but for its FP8 weights, and the number of parameters it is published with."""
    raw = {
        "architectures": ["DeepseekV3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "ep_size": 1,
        "first_k_dense_replace": 3,
        "hidden_act": "silu",
        "hidden_size": 7168,
        "initializer_range": 0.02,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": R1_YARN,
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "v_head_dim": 128,
        "vocab_size": 129280,
    }
    assert parameters(raw) == 671_026_419_200
    attention = read(raw).layers[60].attention
    assert isinstance(attention, MlaConfig) and attention.latent_dim == 576
    assert attention.scale == pytest.approx(192**-0.5 * 1.3688879454113936**2)
    assert_refused(raw, {"quantization_config": {"quant_method": "fp8"}}, "quantized checkpoints")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"scoring_func": "softmax"}, "scoring_func"),
    ({"topk_method": "greedy"}, "topk_method"),
    ({"moe_layer_freq": 2}, "moe_layer_freq"),
    ({"mlp_bias": True}, "MLPs with biases"),
    ({"num_key_value_heads": 2}, "as many key/value heads"),
    ({"kv_lora_rank": 0}, "kv_lora_rank is not a usable size"),
    ({"kv_lora_rank": None}, "lacks 'kv_lora_rank'"),
    ({"q_lora_rank": 0}, "q_lora_rank is not a usable size"),
    ({"qk_rope_head_dim": 5}, "rotates pairs"),
    ({"v_head_dim": None}, "lacks 'v_head_dim'"),
    ({"n_routed_experts": None}, "lacks 'n_routed_experts'"),
    ({"n_group": None}, "lacks 'n_group'"),
    ({"n_group": 3}, "equal groups"),
    ({"n_group": 8}, "two highest"),
    ({"topk_group": 1}, "fewer experts than top_k"),
    ({"n_shared_experts": -1}, "n_shared_experts"),
    ({"num_attention_heads": 60000, "num_key_value_heads": 60000}, "too wide"),
    ({"num_nextn_predict_layers": -1}, "num_nextn_predict_layers"),
    ({"quantization_config": {"quant_method": "fp8"}}, "quantized checkpoints"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_refused(changes: dict[str, Any], message: str) -> None:
    assert_refused(V3, changes, message)


def test_an_absent_low_rank_is_not_a_null_one() -> None:
    without = {key: value for key, value in V3.items() if key != "q_lora_rank"}
    assert_refused(without, {}, "lacks 'q_lora_rank'")


def test_damage_is_refused() -> None:
    assert_damage_is_refused({**V3, "num_nextn_predict_layers": 1, "scoring_func": "sigmoid"})


@pytest.mark.parametrize(
    "keys", [{}, {"q_lora_rank": None, "attention_bias": True}, {"attention_bias": True, "v_head_dim": 6}]
)
def test_tensors(keys: dict[str, Any], tmp_path: Path) -> None:
    """Those of a file that `transformers` writes: in memory it stacks the experts."""
    sizes = {**V3, **keys}
    del sizes["architectures"], sizes["model_type"]
    checkpoint = checkpoint_from_dir(write(tmp_path, **sizes))
    assert {name: ref.shape for name, ref in checkpoint.tensors.items()} == {
        tensor.name: tensor.shape for file in checkpoint.files for tensor in file.tensors
    }


@pytest.mark.parametrize("name", CASES)
def test_export(name: str, tmp_path: Path) -> None:
    assert_export_agrees(write(tmp_path / "checkpoint", **CASES[name]), tmp_path / "export")


def test_every_one_of_256_experts(tmp_path: Path) -> None:
    """Routed to by some token, and right."""
    many = {"n_routed_experts": 256, "n_group": 8, "topk_group": 4, "num_experts_per_tok": 8}
    checkpoint = write(
        tmp_path / "checkpoint", num_hidden_layers=1, first_k_dense_replace=0, vocab_size=4096,
        max_position_embeddings=1024, rope={"rope_type": "default"}, **many,
    )  # fmt: skip
    _scale(checkpoint, "mlp.gate.e_score_correction_bias", 0.1)
    prompts = random_prompts((600, 599, 400), 4096)
    assert assert_prompts_agree(checkpoint, tmp_path / "export", prompts) == set(range(256))
    model = ir.load(tmp_path / "export" / "model.onnx")
    assert len(model.graph) < 45, "nodes are as many whatever the experts are"


@pytest.mark.parametrize("key", ["mscale_all_dim", "mscale", "factor"])
def test_another_magnitude_is_noticed(key: str, tmp_path: Path) -> None:
    """The comparison has teeth: both places of YaRN's magnitude count."""
    checkpoint = write(tmp_path / "checkpoint", rope={**YARN, "factor": 40.0})
    prompts = random_prompts((37, 23), 320)
    want = transformers_logits(checkpoint, prompts)
    raw = json.loads((checkpoint / "config.json").read_text())
    raw["rope_parameters"][key] *= 0.5
    (checkpoint / "config.json").write_text(json.dumps(raw))
    got = feed(exported_session(checkpoint, tmp_path / "export"), prompts, FEEDS["prefill"])
    assert relative_error(got[0], want[0]) > 10 * TOLERANCE


def test_norms_of_the_low_ranks_have_an_epsilon_of_their_own(tmp_path: Path) -> None:
    exported_session(write(tmp_path / "checkpoint", rms_norm_eps=0.25), tmp_path / "export")
    nodes = ir.load(tmp_path / "export" / "model.onnx").graph
    found = {
        str(node.name).rpartition(".")[2]: node.attributes["epsilon"].as_float()
        for node in nodes
        if node.op_type == "R1RMSNorm"
    }
    latent = np.float32(1e-6)
    assert found == {
        "input_layernorm": 0.25, "q_a_layernorm": latent, "kv_a_layernorm": latent,
        "post_attention_layernorm": 0.25, "norm": 0.25,
    }  # fmt: skip


def test_the_cache_is_latent(tmp_path: Path) -> None:
    """32 + 8 elements a token and layer; decompressed it would be 4 heads of 24 + 12."""
    session = exported_session(write(tmp_path / "checkpoint"), tmp_path / "export", 128)
    session.reset(3)
    caches = session._caches  # type: ignore[attr-defined]  # no public name
    assert {name: cache.shape for name, cache in caches.items()} == {
        f"latent_cache.{layer}": (3, 1, 128, 40) for layer in range(2)
    }
    assert sum(cache.nbytes for cache in caches.values()) == 3 * 128 * 2 * 40 * 4
    model = ir.load(tmp_path / "export" / "model.onnx")
    names = {str(value.name) for value in (*model.graph.inputs, *model.graph.outputs)}
    assert {name for name in names if "cache" in name} == {
        f"latent_cache{part}.{layer}" for layer in range(2) for part in ("", "_out")
    }


def _scale(checkpoint: Path, name: str, factor: float) -> None:
    """Multiplies tensors whose names end so: experts with a bias far below the others' are never taken."""
    tensors = load_file(checkpoint / "model.safetensors")
    scaled = {key: tensor * factor for key, tensor in tensors.items() if key.endswith(name)}
    assert scaled
    save_file({**tensors, **scaled}, checkpoint / "model.safetensors", {"format": "pt"})


def _add_next_layer(checkpoint: Path, **renamed: str) -> None:
    """One more layer of experts and what joins it to the model, as published checkpoints have it."""
    tensors = load_file(checkpoint / "model.safetensors")
    last = {name: tensor for name, tensor in tensors.items() if name.startswith("model.layers.1.")}
    more = {name.replace("layers.1.", "layers.2."): tensor.clone() for name, tensor in last.items()}
    for name in ("embed_tokens", "enorm", "hnorm", "eh_proj", "shared_head.norm", "shared_head.head"):
        more[f"model.layers.2.{name}.weight"] = torch.zeros(3, 5)
    tensors |= {renamed.get(name, name): tensor for name, tensor in more.items()}
    save_file(tensors, checkpoint / "model.safetensors", {"format": "pt"})


def test_layers_behind_the_last_are_skipped_and_named(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint")
    own = set(checkpoint_from_dir(checkpoint).tensors)
    _add_next_layer(checkpoint)
    assert set(checkpoint_from_dir(checkpoint).tensors) == own
    assert_export_agrees(checkpoint, tmp_path / "export")
    note, *_ = ExportManifest.read(tmp_path / "export").notes
    skipped = len([name for name in own if name.startswith("model.layers.1.")]) + 6
    assert note == (
        "Layer 2 of the checkpoint predicts a further token (num_nextn_predict_layers); "
        f"its {skipped} tensors are skipped."
    )


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("model.layers.2.eh_proj.weight", "model.layers.2.eh_projection.weight"),
        ("model.layers.2.enorm.weight", "model.layers.3.enorm.weight"),
        ("model.layers.2.hnorm.weight", "model.layers.1.hnorm.weight"),
        ("model.layers.2.mlp.experts.7.up_proj.weight", "model.layers.1.mlp.experts.8.up_proj.weight"),
    ],
)
def test_what_does_not_belong_there_is_refused(name: str, other: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path)
    _add_next_layer(checkpoint, **{name: other})
    with pytest.raises(CheckpointError, match=rf"unexpected \(1\):\s+{other}"):
        checkpoint_from_dir(checkpoint)


def test_without_the_key_there_is_no_layer_behind_the_last() -> None:
    config = read(V3)
    assert config.num_nextn_layers == 0 and not is_ignored(config, "model.layers.3.enorm.weight")
    config = read(V3, num_nextn_predict_layers=2)
    assert is_ignored(config, "model.layers.4.enorm.weight")
    assert not is_ignored(config, "model.layers.5.enorm.weight")


def test_cpu_engine(tmp_path: Path) -> None:
    assert_cpu_engine_generates(write(tmp_path / "checkpoint", tokenizer=True), tmp_path)


def test_fp8_engine(tmp_path: Path) -> None:
    """Projections and experts in FP8; what is absorbed, and the latents, in BF16."""
    attention = "model.layers.1.self_attn"
    assert_fp8_engine_obeys_its_plan(
        write(tmp_path / "checkpoint", tokenizer=True), tmp_path, product=f"{attention}.q_a_proj",
        named=[f"{attention}.{name}" for name in ("q_a_layernorm", "q_absorb", "attention", "v_expand")],
    )  # fmt: skip


def test_bf16_engine_and_its_simulation(tmp_path: Path) -> None:
    """Every expert is taken, so that rounding changes no routing."""
    every = {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 8}
    checkpoint = write(tmp_path / "checkpoint", tokenizer=True, **every)
    engine = build(checkpoint, tmp_path, "ada", "bf16")
    found = read_manifest(engine, "engine")["network_check"]
    assert (found["disobeyed"], found["unverified"]) == (0, 2)
    session = session_from_simulation(BuildArtifact.read(engine))
    prompts = random_prompts((37, 23), session.limits.vocab_size)
    want = transformers_logits(checkpoint, prompts)
    for calls in FEEDS.values():
        for row, got in enumerate(feed(session, prompts, calls)):
            difference = got - want[row][: len(got)]
            assert 1e-4 < np.sqrt((difference**2).mean() / (want[row] ** 2).mean()) < 0.03


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_hopper_stops_in_front_of_the_engine(precision: str, tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", tokenizer=True, **PLUGIN_SIZES)
    with pytest.raises(UnavailableError, match="Everything but the engine") as caught:
        build(checkpoint, tmp_path, "hopper", precision)
    assert caught.value.exit_code == 3
    assert read_manifest(tmp_path / "engine", "engine")["status"] == "needs-engine"
    graph = ir.load(tmp_path / "engine" / "typed.onnx").graph
    nodes = [node for node in graph if node.op_type == "R1HLAAttention"]
    assert len(nodes) == 2
    for index, node in enumerate(nodes):
        q, k, cache, *lengths = node.inputs
        assert node.attributes["input_mask"].as_int() == 0b11001011
        assert node.attributes["v_head_dim"].as_int() == 512
        assert [list(value.shape)[2:] for value in (q, k, cache)] == [[4, 576], [1, 576], [64, 576]]
        assert str(cache.name) == f"latent_cache.{index}" and len(lengths) == len(node.outputs) == 2
        assert {value.dtype for value in (q, k, cache)} == {ir.DataType.BFLOAT16}


def test_hopper_refuses_latents_that_its_plugin_has_no_kernel_for(tmp_path: Path) -> None:
    checkpoint = write(tmp_path / "checkpoint", tokenizer=True)
    with pytest.raises(BuildError, match="made for 576 and 512") as caught:
        build(checkpoint, tmp_path, "hopper", "bf16")
    assert "latent keys of 40 elements and values of 32" in str(caught.value.details["found"])
    assert not (tmp_path / "engine").exists()
