"""The operators' nodes of a real build for TensorRT, in the real ONNX parser and in the plugins."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from fp8_checkpoints import quantize_checkpoint
from harness.compile import harness_library, host_plugin_library
from test_plugin_registry import findings, run_child
from tiny_checkpoints import write_deepseek, write_r1_asa

from r1trt.artifacts.manifest import read_manifest
from r1trt.artifacts.profiles import InputRange, OptimizationProfile, save_profiles
from r1trt.build.child import BuildRequest, build_in_child
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.cache import CACHE_VARIABLE
from r1trt.errors import BuildError, PlanError, UnavailableError
from r1trt.export import moe
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.ops.operator import DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from r1trt.ops.registry import OPERATORS
from r1trt.passes.name_absent_inputs import INPUT_MASK
from r1trt.plugin_checks.harness.driver import (
    BF16,
    FLOAT,
    FP8,
    INT64,
    TENSORRT_11,
    Field,
    Harness,
    Tensor,
    fields_from,
)
from r1trt.plugin_tools.library import LIBRARY_FILE, LIBRARY_VARIABLE

TYPES = {
    ir.DataType.FLOAT: FLOAT,
    ir.DataType.BFLOAT16: BF16,
    ir.DataType.FLOAT8E4M3FN: FP8,
    ir.DataType.INT64: INT64,
}
EXTERNAL = "fp8 of DeepSeek, whose experts are inputs"
SYMBOLS = {"B": 2, "S": 5}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 64, as the attention kernel needs them; 8 experts and a shared one."""
    directory = tmp_path_factory.mktemp("r1_asa")
    write_r1_asa(
        directory / "checkpoint",
        num_shared_experts=1,
        shared_intermediate_size=32,
        head_dim=64,
        tokenizer=True,
    )
    config = ExportConfig(checkpoint=directory / "checkpoint", output=directory / "export", max_seq_len=64)
    return export_checkpoint(config)


@pytest.fixture(scope="module")
def deepseek_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepSeek-V3 in FP8 with block scales; latents of R1's size, 16 experts in 3 parts."""
    directory = tmp_path_factory.mktemp("deepseek")
    sizes = {"hidden_size": 256, "moe_intermediate_size": 128, "n_routed_experts": 16}
    latent = {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    plain = write_deepseek(directory / "plain", tokenizer=True, **sizes, **latent)
    checkpoint = quantize_checkpoint(plain, directory / "fp8")
    config = ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moe, "fewest_parts", lambda *_: 3)
        return export_checkpoint(config)


@pytest.fixture(scope="module", params=["fp8", "bf16", "bf16 without a cache", "fp8 of DeepSeek", EXTERNAL])
def build(
    request: pytest.FixtureRequest,
    export: Path,
    deepseek_export: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A build for Hopper with a plugin library that was named; it stops in front of the engine."""
    output = tmp_path_factory.mktemp("build") / "engine"
    precision, _, kind = request.param.partition(" ")
    config = BuildConfig(
        model=deepseek_export if kind.startswith("of DeepSeek") else export,
        arch="hopper", precision=precision, cache=kind != "without a cache", output=output,
        plugin_library=host_library(tmp_path_factory.mktemp("library")), plugins="all",
        external_experts=request.param == EXTERNAL,
    )  # fmt: skip
    with pytest.raises(UnavailableError, match="Everything but the engine"):
        build_engine(config)
    return output


def host_library(directory: Path) -> Path:
    """The plugins for the CPU, described as a library for Hopper."""
    info = (
        b'R1TRT_PLUGINS_INFO:{"key": "host", "sources": "", "operators": ["R1DynamicRoPE", "R1HLAAttention",'
        b' "R1DynamicMoE"], "sms": [90], "headers": "own", "nvcc": "none"}\0'
    )
    path = directory / LIBRARY_FILE
    content = host_plugin_library().read_bytes().replace(b"R1TRT_PLUGINS_INFO:", b"R1TRT_PLUGINS_NONE:")
    path.write_bytes(content + info)
    return path


def operator_nodes(build: Path) -> list[ir.Node]:
    model = ir.load(build / "typed.onnx")
    assert not model.functions
    return [node for node in model.graph if node.op_type in OPERATORS]


def attributes_of(node: ir.Node) -> dict[str, float]:
    return {name: attribute.value for name, attribute in node.attributes.items()}


def dims_of(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(size if isinstance(size, int) else SYMBOLS[str(size)] for size in value.shape)


def test_the_library_lies_beside_the_graph(build: Path) -> None:
    manifest = read_manifest(build, "engine")
    assert manifest["plugin_libraries"] == [LIBRARY_FILE]
    assert (manifest["plugins"]["operators"], manifest["plugins"]["embedded"]) == (list(OPERATORS), False)
    assert (build / LIBRARY_FILE).is_file()


def test_every_input_is_there_and_the_mask_names_it(build: Path) -> None:
    nodes = operator_nodes(build)
    assert {node.op_type for node in nodes} == set(OPERATORS)
    cached = read_manifest(build)["cache"]
    for node in nodes:
        names = OPERATORS[node.op_type].input_names(node)
        mask = attributes_of(node)[INPUT_MASK]
        present = [name for bit, name in enumerate(names) if int(mask) >> bit & 1]
        assert None not in node.inputs and len(node.inputs) == len(present)
        assert set(names) - set(present) <= OPERATORS[node.op_type].optional_inputs
        if node.op_type == "R1HLAAttention":
            assert ("key_cache" in present) == cached and ("lam" in present) == ("v" in present)
            if "lam" in present:
                assert dims_of(node.inputs[present.index("lam")]) == dims_of(node.inputs[0])[:3]


def test_the_plugins_take_the_layers(build: Path) -> None:
    """Types and shapes of every layer, as a builder would ask for them."""
    harness = Harness(harness_library())
    harness.set_version(TENSORRT_11)
    library = harness.open(host_plugin_library())
    for node in operator_nodes(build):
        fields: list[Field] = fields_from(attributes_of(node))
        plugin = library.create(node.op_type, fields, layer=str(node.name))
        assert plugin is not None, harness.errors()
        inputs = [Tensor(TYPES[value.dtype], dims_of(value)) for value in node.inputs]
        outputs = [Tensor(TYPES[value.dtype], dims_of(value)) for value in node.outputs]
        assert plugin.describe()["outputs"] == len(outputs)
        assert plugin.output_types([tensor.type for tensor in inputs], len(outputs)) == [
            t.type for t in outputs
        ]
        shapes = plugin.output_shapes(inputs, len(outputs))
        assert shapes == [[str(size) for size in tensor.dims] for tensor in outputs], plugin.messages()
        assert all(plugin.supports(at, inputs, outputs) for at in range(len(inputs) + len(outputs)))
        assert plugin.configure(inputs, outputs), plugin.messages()
        assert plugin.on_shape_change(inputs, outputs), plugin.messages()


def alone(node: ir.Node) -> onnx.ModelProto:
    """A graph with one node of the build."""
    values = {str(value.name): value for value in (*node.inputs, *node.outputs)}
    infos = {
        name: onnx.helper.make_tensor_value_info(name, value.dtype.value, dims_of(value))
        for name, value in values.items()
    }
    proto = ir.to_proto(node)
    del proto.metadata_props[:]
    inputs = [infos[name] for name in dict.fromkeys(str(value.name) for value in node.inputs)]
    graph = onnx.helper.make_graph(
        [proto], "alone", inputs, [infos[str(value.name)] for value in node.outputs]
    )
    opsets = [onnx.helper.make_opsetid("", OPSET), onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_real_parser_makes_a_plugin_of_the_node(build: Path, operator: str, tmp_path: Path) -> None:
    """TensorRT-RTX's parser ends the process right after it made one; see test_plugin_registry."""
    node = next(node for node in operator_nodes(build) if node.op_type == operator)
    onnx.save(alone(node), tmp_path / "model.onnx")
    child = run_child("rtx_child.py", "parse", host_plugin_library(), tmp_path / "model.onnx")
    assert child.returncode == -signal.SIGABRT, child.stdout + child.stderr
    [made] = [item["message"] for item in findings(child) if "createPlugin: " in item.get("message", "")]
    values = dict(item.split("=") for item in made.partition("createPlugin: ")[2].split())
    assert {key: float(value) for key, value in values.items()} == pytest.approx(attributes_of(node))
    assert f"layer '{node.name}'" in made


def cut_at_plugins(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without the plugins' nodes: what they give comes from outside, what they take goes there."""
    graph = model.graph
    plugins = [node for node in graph.node if node.op_type in OPERATORS]
    infos = {info.name: info for info in (*graph.value_info, *graph.input, *graph.output)}
    given = dict.fromkeys(name for node in plugins for name in node.output if name)
    outside = {*given, *(info.name for info in graph.input), *(item.name for item in graph.initializer)}
    taken = dict.fromkeys(name for node in plugins for name in node.input if name and name not in outside)
    kept = [info for info in graph.output if info.name not in given]
    nodes = [node for node in graph.node if node.op_type not in OPERATORS]
    for field, content in (
        (graph.node, nodes),
        (graph.input, [*graph.input, *(infos[name] for name in given)]),
        (graph.output, [*kept, *(infos[name] for name in taken)]),
    ):
        copies = [type(item).FromString(item.SerializeToString()) for item in content]
        del field[:]
        field.extend(copies)
    return model


def test_the_real_parser_takes_the_graph_between_the_plugins(build: Path, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(build, tmp_path / "build"))
    cut = cut_at_plugins(onnx.load(directory / "typed.onnx", load_external_data=False))
    assert len(cut.graph.node) > 50
    onnx.save(cut, directory / "typed.onnx")
    child = run_child("rtx_child.py", "parse", host_plugin_library(), directory / "typed.onnx")
    assert child.returncode == 0, child.stdout[-2000:] + child.stderr
    assert [item for item in findings(child) if "parsed" in item] == [{"parsed": True, "errors": []}]


def test_the_real_parser_takes_native_layers_between_the_plugins(
    deepseek_export: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "build"
    with pytest.raises(UnavailableError):
        build_engine(BuildConfig(model=deepseek_export, arch="hopper", precision="fp8", output=directory))
    model = onnx.load(directory / "typed.onnx", load_external_data=False)
    kinds = {node.op_type for node in model.graph.node}
    assert kinds >= {"RotaryEmbedding", "R1HLAAttention", "R1DynamicMoE"} and "R1DynamicRoPE" not in kinds
    onnx.save(cut_at_plugins(model), directory / "typed.onnx")
    child = run_child("rtx_child.py", "parse", host_plugin_library(), directory / "typed.onnx")
    assert [item for item in findings(child) if "parsed" in item] == [{"parsed": True, "errors": []}]


def test_the_simulation_still_has_every_input(build: Path) -> None:
    model = ir.load(build / "simulated.onnx")
    assert not [node for node in model.graph.all_nodes() if INPUT_MASK in node.attributes]


def relu_request(directory: Path, library: Path) -> BuildRequest:
    """A graph without the operators, for the builder that can be had without a GPU."""
    text = '<ir_version: 12, opset_import: ["" : 24]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), directory / "typed.onnx")
    fixed = InputRange(min=(2,), opt=(2,), max=(2,))
    save_profiles([OptimizationProfile(name="only", inputs={"x": fixed})], directory / "profiles.json")
    return BuildRequest(
        backend="tensorrt-rtx",
        directory=directory,
        graph=directory / "typed.onnx",
        engines={89: "engine.plan"},
        plugin_libraries=[library],
        embed_plugins=True,
    )


def test_the_builders_process_loads_the_library(tmp_path: Path) -> None:
    build_in_child(relu_request(tmp_path, host_plugin_library()), on_network=lambda layers: None)
    assert (tmp_path / "engine.plan").stat().st_size > 0


def test_the_builders_process_refuses_a_library_that_does_not_load(tmp_path: Path) -> None:
    request = relu_request(tmp_path, tmp_path / "absent.so")
    with pytest.raises(BuildError, match="plugin library cannot be loaded"):
        build_in_child(request, on_network=lambda layers: None)


def test_fp32_is_refused_before_anything_is_written(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(LIBRARY_VARIABLE, raising=False)
    config = BuildConfig(model=export, arch="hopper", precision="fp32", output=tmp_path / "engine")
    with pytest.raises(PlanError, match="its plugins compute in other types") as caught:
        build_engine(config)
    assert "'model.layers.0.self_attn.attention': the activations are fp32" in caught.value.details["found"]
    assert not (tmp_path / "engine").exists()
