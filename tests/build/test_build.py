"""Whole builds with the real builders: every architecture, unfinished builds, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from r1trt.artifacts import BuildArtifact
from r1trt.artifacts.errors import ArtifactError
from r1trt.artifacts.manifest import read_manifest, write_manifest
from r1trt.build.config import BuildConfig
from r1trt.build.engine_bytes import KERNEL_BYTES, require_narrow_engines
from r1trt.build.executed import require_no_wider_products, with_executed
from r1trt.build.network_check import LayerCheck, NetworkReport
from r1trt.build.pipeline import build_engine
from r1trt.errors import BuildError, CheckpointError, ConfigError, PlanError, R1TrtError, UnavailableError
from r1trt.export.io import load_export
from r1trt.ops.layer_precision import LayerPrecision
from r1trt.precision.plan import PrecisionPlan
from r1trt.precision.plan_file import load_plan, save_plan
from r1trt.precision.rules import THRESHOLDS, plan_from_rules
from r1trt.runtime.graph_session import session_from_simulation
from r1trt.runtime.load import session_from_engine

ENGINES = {"ampere": [80, 86], "ada": [89], "blackwell": [120]}
VOLATILE = {"built_at"}


def build(export: Path, output: Path, arch: str, precision: Any = None, **options: Any) -> Path:
    return build_engine(BuildConfig(model=export, arch=arch, precision=precision, output=output, **options))


def logits_of(session: Any) -> Any:
    """A ragged prefill and one decode step; real tokens only."""
    session.reset(2)
    ids = np.random.default_rng(0).integers(2, 300, (2, 12))
    first = session.step(ids, np.array([12, 7]), np.array([0, 0]))
    second = session.step(ids[:, :1], np.array([1, 1]), np.array([12, 7]))
    session.close()
    return np.concatenate([first[0], first[1, :7], second[0], second[1]])


def relative_error(found: Any, expected: Any) -> float:
    return float(np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()))


@pytest.mark.parametrize(
    ("arch", "precision"),
    [("ampere", "bf16"), ("ampere", "int8"), ("ada", "fp8"), ("blackwell", "fp8"), ("ada", "fp32")],
)
def test_r1_asa_builds_offline_and_obeys_its_plan(
    r1_asa_export: Path, tmp_path: Path, arch: str, precision: str
) -> None:
    output = build(r1_asa_export, tmp_path / "engine", arch, precision)
    manifest = read_manifest(output, "engine")
    assert manifest["status"] == "complete"
    assert [entry["sm"] for entry in manifest["engines"]] == ENGINES[arch]
    for entry in manifest["engines"]:
        assert (output / entry["file"]).stat().st_size == entry["bytes"] > 0
    assert manifest["network_check"]["disobeyed"] == 0
    assert manifest["network_check"]["unverified"] == 2  # the two attentions
    report = json.loads((output / "layers.json").read_text())
    assert {layer["name"] for layer in report["layers"]} == set(load_plan(output / "precision.yaml").layers)
    for path in output.iterdir():
        if path.suffix == ".json":
            assert str(tmp_path) not in path.read_text(), f"{path.name} names a place of this machine"


def test_executed_products_are_fp8_where_the_plan_says_so(r1_asa_export: Path, tmp_path: Path) -> None:
    output = build(r1_asa_export, tmp_path / "engine", "ada", "fp8")
    executed = json.loads((output / "layers.json").read_text())["executed"]["sm89"]["products"]
    by_layer = {key: item for item in executed for key in item["layers"]}
    for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
        product = by_layer[f"model.layers.0.self_attn.{projection}"]
        assert product["inputs"][:2] == ["fp8_e4m3", "fp8_e4m3"], product
        assert product["output"] == ["bf16"], product
    experts = [item for item in executed if "model.layers.1.mlp.moe" in item["layers"]]
    assert {tuple(item["inputs"][:2]) for item in experts} == {("fp8_e4m3",) * 2, ("float",) * 2}


def test_the_report_has_planned_declared_and_executed_types(r1_asa_export: Path, tmp_path: Path) -> None:
    output = build(r1_asa_export, tmp_path / "engine", "ada", "fp8")
    layers = {layer["name"]: layer for layer in json.loads((output / "layers.json").read_text())["layers"]}
    product = layers["model.layers.0.self_attn.q_proj"]
    assert product["asked"] == product["found"] and product["asked"]["input"] == "fp8_e4m3"
    assert product["executed"] == ["fp8_e4m3 x fp8_e4m3 -> bf16"]
    assert layers["lm_head"]["executed"] == ["bf16 x bf16 -> bf16"]
    assert layers["model.norm"]["executed"] == []
    assert "fp8_e4m3 x fp8_e4m3 -> bf16" in layers["model.layers.1.mlp.moe"]["executed"]
    check = read_manifest(output)["network_check"]
    assert check["executed"] == sum(bool(layer["executed"]) for layer in layers.values()) > 9


def test_fp8_that_runs_wider_is_refused_unless_allowed() -> None:
    layer = LayerPrecision(op="R1Linear", input="fp8_e4m3", weight="fp8_e4m3", output="bf16", reason="a test",
                           input_scale=1.0, weight_scale=1.0)  # fmt: skip
    layers = {"a": layer, "b": layer, "c": replace(layer, input="bf16", input_scale=None)}
    plan = PrecisionPlan(
        model_hash="", arch="ada", precision="fp8", thresholds=THRESHOLDS["fp8"], layers=layers
    )
    checks = [
        LayerCheck(name=name, op="R1Linear", asked={}, found={}, verdict="obeyed") for name in plan.layers
    ]
    wide = {"layers": ["a", "c"], "inputs": ["bf16", "bf16"], "output": ["float"]}
    report = with_executed(
        NetworkReport(layers=tuple(checks), network_layers=3), {"sm89": {"products": [wide]}}
    )
    assert [layer.executed for layer in report.layers] == [
        ("bf16 x bf16 -> fp32",),
        (),
        ("bf16 x bf16 -> fp32",),
    ]
    with pytest.raises(BuildError, match="multiplies 1 layers in wider types") as caught:
        require_no_wider_products(report, plan)
    assert "a, planned in fp8_e4m3: bf16 x bf16 -> fp32" in caught.value.details["found"]
    real = {"layers": ["a"], "inputs": ["fp8_e4m3", "fp8_e4m3"], "output": ["bf16"]}
    require_no_wider_products(with_executed(report, {"sm89": {"products": [real]}}), plan)


def test_engines_with_widened_weights_are_refused(tmp_path: Path) -> None:
    weights, engine = tmp_path / "weights.safetensors", tmp_path / "engine.sm80.plan"
    for path, size in ((weights, 100 << 20), (engine, (150 << 20) + KERNEL_BYTES)):
        with path.open("wb") as file:
            file.truncate(size)
    require_narrow_engines({80: engine}, weights)
    with engine.open("ab") as file:
        file.write(b"0")
    with pytest.raises(BuildError, match="stores weights wider") as caught:
        require_narrow_engines({80: engine}, weights)
    assert "engine.sm80.plan: 224.4 MB" in caught.value.details["found"]


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-5), ("bf16", 0.06)])
def test_the_simulation_is_near_the_export(
    r1_asa_export: Path, tmp_path: Path, precision: str, limit: float
) -> None:
    output = build(r1_asa_export, tmp_path / "engine", "ada", precision)
    expected = logits_of(session_from_engine(r1_asa_export))
    found = logits_of(session_from_simulation(BuildArtifact.read(output)))
    assert relative_error(found, expected) < limit


def test_cpu_engine_computes_what_the_export_computes(r1_asa_export: Path, tmp_path: Path) -> None:
    output = build(r1_asa_export, tmp_path / "engine", "cpu")
    manifest = read_manifest(output, "engine")
    assert (manifest["backend"], manifest["precision"]) == ("onnxruntime", "fp32")
    shutil.move(output, tmp_path / "elsewhere")
    found = logits_of(session_from_engine(tmp_path / "elsewhere"))
    assert relative_error(found, logits_of(session_from_engine(r1_asa_export))) < 1e-5


def test_cpu_engine_in_bf16_is_the_simulation(llama_export: Path, tmp_path: Path) -> None:
    cpu = build(llama_export, tmp_path / "cpu", "cpu", "bf16")
    gpu = build(llama_export, tmp_path / "gpu", "ada", "bf16")
    simulated = logits_of(session_from_simulation(BuildArtifact.read(gpu)))
    np.testing.assert_allclose(logits_of(session_from_engine(cpu)), simulated, atol=1e-5)


def test_passes_are_dumped_in_the_order_of_the_lists(r1_asa_export: Path, tmp_path: Path) -> None:
    build(r1_asa_export, tmp_path / "engine", "cpu", "bf16", dump_passes=tmp_path / "dumps")
    names = [path.name for path in sorted((tmp_path / "dumps").iterdir())]
    assert names[0] == "00-set-capacity.onnx"
    assert names[-1] == f"{len(names) - 1:02d}-pretranspose-weights.onnx"
    for name in names:
        onnx.load(tmp_path / "dumps" / name, load_external_data=False)


def test_without_a_cache_the_engine_scores_whole_prompts(llama_export: Path, tmp_path: Path) -> None:
    output = build(llama_export, tmp_path / "engine", "ada", "bf16", cache=False, max_input_len=32)
    manifest = read_manifest(output, "engine")
    assert (manifest["cache"], manifest["capacity"]) == (False, None)
    profiles = json.loads((output / "profiles.json").read_text())
    assert [sorted(profile["inputs"]) for profile in profiles] == [["input_ids", "seq_len"]]


def test_two_builds_are_byte_identical(r1_asa_export: Path, tmp_path: Path) -> None:
    first, second = (build(r1_asa_export, tmp_path / name, "ada", "fp8") for name in ("a", "another"))
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    for name in names:
        if name == "manifest.json":
            contents = [
                {k: v for k, v in read_manifest(path).items() if k not in VOLATILE}
                for path in (first, second)
            ]
            assert contents[0] == contents[1]
        else:
            assert (first / name).read_bytes() == (second / name).read_bytes(), name


# ------------------------------------------------------------------ builds that stop in front of the engine


def test_hopper_keeps_everything_but_the_engine(r1_asa_export: Path, tmp_path: Path) -> None:
    output = tmp_path / "engine"
    with pytest.raises(UnavailableError) as caught:
        build(r1_asa_export, output, "hopper", "fp8")
    assert caught.value.exit_code == 3
    assert f"r1trt build {output}" in caught.value.details["fix"]
    manifest = read_manifest(output, "engine")
    assert (manifest["status"], manifest["engines"]) == ("needs-engine", [])
    found = {path.name for path in output.iterdir()}
    wanted = ("typed.onnx", "simulated.onnx", "weights.safetensors", "precision.yaml", "profiles.json")
    assert found >= {*wanted, "tokenizer.json", "config.json"}
    logits_of(session_from_simulation(BuildArtifact.read(output)))
    with pytest.raises(UnavailableError):  # building it again here comes to the same end
        build_engine(BuildConfig(model=output))


def without_tensorrt_rtx(monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
    """A broken installation in front of the real one, for the processes that try to import it."""
    (directory / "tensorrt_rtx").mkdir(parents=True)
    (directory / "tensorrt_rtx/__init__.py").write_text("raise ImportError('libtensorrt_rtx.so not found')")
    monkeypatch.setenv("PYTHONPATH", str(directory))


def unfinished(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build that could not be finished where it was made, copied to another place."""
    with monkeypatch.context() as broken:
        without_tensorrt_rtx(broken, tmp_path / "broken")
        with pytest.raises(UnavailableError, match="but the engine") as caught:
            build(export, tmp_path / "made", "ada", "fp8")
    assert "libtensorrt_rtx.so not found" in caught.value.details["found"]
    return Path(shutil.move(tmp_path / "made", tmp_path / "copied"))


def test_an_unfinished_build_is_finished_elsewhere(
    r1_asa_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unfinished(r1_asa_export, tmp_path, monkeypatch)
    assert build_engine(BuildConfig(model=directory)) == directory
    manifest = read_manifest(directory, "engine")
    assert manifest["status"] == "complete"
    at_once = build(r1_asa_export, tmp_path / "at_once", "ada", "fp8")
    assert (directory / "engine.sm89.plan").read_bytes() == (at_once / "engine.sm89.plan").read_bytes()
    with pytest.raises(ConfigError, match="finished build"):
        build_engine(BuildConfig(model=directory))


def test_an_unfinished_build_is_not_finished_as_something_else(
    r1_asa_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = unfinished(r1_asa_export, tmp_path, monkeypatch)
    with pytest.raises(ConfigError, match="something else"):
        build_engine(BuildConfig(model=directory, arch="blackwell"))
    with pytest.raises(ConfigError, match="--timing-cache is for the builder tensorrt"):
        build_engine(BuildConfig(model=directory, timing_cache=tmp_path / "timings"))
    with (directory / "weights.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x55")
    with pytest.raises(BuildError, match=r"file of the unfinished build changed"):
        build_engine(BuildConfig(model=directory))
    assert read_manifest(directory)["status"] == "needs-engine"


# ------------------------------------------------------------------ what is refused


def test_ampere_refuses_fp8_at_once(r1_asa_export: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="ampere cannot run FP8"):
        build(r1_asa_export, tmp_path / "engine", "ampere", "fp8")
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arch": None}, "--arch is missing"),
        ({"arch": "hopper", "backend": "tensorrt-rtx"}, "does not build for --arch hopper"),
        ({"arch": "cpu", "backend": "tensorrt"}, "does not build for --arch cpu"),
        ({"arch": "ada", "backend": "onnxruntime"}, "does not build for --arch ada"),
        ({"arch": "ada", "max_input_len": 65}, "KV cache"),
        ({"arch": "ada", "max_seq_len": 1 << 20}, "positions|capacity"),
    ],
)
def test_contradictions_are_refused(
    llama_export: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_engine(BuildConfig(model=llama_export, output=tmp_path / "engine", **options))
    assert re.search(says, str(caught.value))
    assert not (tmp_path / "engine").exists()


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, r1_asa_export: Path) -> None:
    from tiny_checkpoints import write_llama

    from r1trt.export.export import ExportConfig, export_checkpoint

    checkpoint = write_llama(tmp_path / "checkpoint", tokenizer=True)
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=32)
    )
    tensor = load_export(export).model.graph.initializers["model.layers.1.mlp.up_proj.weight"].const_value
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.seek(tensor.offset + 8)  # type: ignore[union-attr]  # an external tensor
        file.write(np.float32("nan").tobytes())
    with pytest.raises(CheckpointError, match="NaN") as caught:
        build(export, tmp_path / "engine", "cpu")
    assert "model.layers.1.mlp.up_proj.weight: 1" in caught.value.details["found"]


def test_a_plan_file_decides(llama_export: Path, tmp_path: Path) -> None:
    plan = plan_from_rules(load_export(llama_export).model, "ada", "bf16")
    wide = replace(plan.layers["lm_head"], input="fp32", weight="fp32", output="fp32", reason="tried out")
    save_plan(replace(plan, layers={**plan.layers, "lm_head": wide}), tmp_path / "plan.yaml")
    output = build(llama_export, tmp_path / "engine", "ada", plan=tmp_path / "plan.yaml")
    report = json.loads((output / "layers.json").read_text())
    (head,) = [layer for layer in report["layers"] if layer["name"] == "lm_head"]
    assert head["found"] == {"input": "fp32", "weight": "fp32", "output": "fp32"}
    with pytest.raises(PlanError, match="blackwell"):
        build(llama_export, tmp_path / "other", "blackwell", plan=tmp_path / "plan.yaml")


def test_types_of_no_plugin_are_refused_before_calibration(r1_asa_export: Path, tmp_path: Path) -> None:
    rules = plan_from_rules(load_export(r1_asa_export).model, "hopper", "fp8")
    name = "model.layers.1.self_attn.attention"
    wide = replace(rules.layers[name], input="fp32", output="fp32")
    save_plan(replace(rules, layers={**rules.layers, name: wide}), tmp_path / "plan.yaml")
    phases: list[str] = []
    config = BuildConfig(
        model=r1_asa_export, arch="hopper", output=tmp_path / "engine", plan=tmp_path / "plan.yaml"
    )
    with pytest.raises(PlanError, match="its plugins compute in other types") as caught:
        build_engine(config, lambda phase, done, total: phases.append(phase))
    assert name in caught.value.details["found"]
    assert not any("calibrat" in phase.lower() or "measur" in phase.lower() for phase in phases), phases
    assert not (tmp_path / "engine").exists()


def test_a_cut_off_build_leaves_the_previous_one(r1_asa_export: Path, tmp_path: Path) -> None:
    output = build(r1_asa_export, tmp_path / "engine", "ada", "bf16")
    before = read_manifest(output)

    def interrupt(phase: str, done: int, total: int) -> None:
        if phase.startswith("Building"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        config = BuildConfig(model=r1_asa_export, arch="ada", precision="fp8", output=output)
        build_engine(config, interrupt)
    assert read_manifest(output) == before
    assert [path.name for path in tmp_path.iterdir()] == ["engine"]


def test_the_newest_export_is_the_default(
    llama_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no export"):
        build_engine(BuildConfig(arch="cpu"))
    for name in ("older", "newer"):
        shutil.copytree(llama_export, tmp_path / "engines" / name)
        write_manifest(
            tmp_path / "engines" / name,
            {k: v for k, v in read_manifest(llama_export).items() if k != "schema"},
        )
    assert build_engine(BuildConfig(arch="cpu")) == Path("engines/newer/cpu-fp32")


def test_an_edited_plan_is_not_written_over(llama_export: Path, tmp_path: Path) -> None:
    config = BuildConfig(model=llama_export, arch="cpu", precision="fp32", output=tmp_path / "build")
    plan = build_engine(config) / "precision.yaml"
    edited = plan.read_text().replace("kl_max: 1.0e-05", "kl_max: 1.0e-04")
    assert edited != plan.read_text()
    plan.write_text(edited)
    with pytest.raises(ConfigError, match="edited"):
        build_engine(config)
    assert plan.read_text() == edited
    build_engine(replace(config, plan=plan))
    assert "kl_max: 0.0001" in plan.read_text()


def test_scales_by_row_travel_with_the_plan(llama_export: Path, tmp_path: Path) -> None:
    config = BuildConfig(model=llama_export, arch="cpu", precision="fp8", output=tmp_path / "build")
    plan = load_plan(build_engine(config) / "precision.yaml")
    name = "model.layers.0.mlp.down_proj"
    by_row = replace(plan.layers[name], weight_scale=(0.5,) * 64, weight_axis=0)
    files = save_plan(replace(plan, layers={**plan.layers, name: by_row}), tmp_path / "rows.yaml")
    assert [path.name for path in files] == ["rows.yaml", "rows.scales.safetensors"]
    output = build_engine(replace(config, plan=files[0], output=tmp_path / "rows"))
    assert load_plan(output / "precision.yaml") == load_plan(files[0])
    listed = {entry["file"] for entry in read_manifest(output)["files"]}
    assert {"precision.yaml", "precision.scales.safetensors"} <= listed
    again = replace(config, plan=output / "precision.yaml", output=output)
    assert load_plan(build_engine(again) / "precision.yaml") == load_plan(files[0])


def test_a_build_does_not_replace_its_export(llama_export: Path) -> None:
    with pytest.raises(R1TrtError, match="another kind"):
        build_engine(BuildConfig(model=llama_export, arch="cpu", output=llama_export))
    assert (llama_export / "model.onnx").is_file()


def test_a_lowered_layer_of_a_cpu_build_is_simulated(llama_export: Path, tmp_path: Path) -> None:
    config = BuildConfig(model=llama_export, arch="cpu", precision="fp32", output=tmp_path / "build")
    plan = load_plan(build_engine(config) / "precision.yaml")
    name = "model.layers.0.mlp.down_proj"
    lowered = replace(plan.layers[name], input="bf16", weight="bf16")
    save_plan(replace(plan, layers={**plan.layers, name: lowered}), tmp_path / "plan.yaml")
    engine = build_engine(replace(config, plan=tmp_path / "plan.yaml"))
    onnxruntime.InferenceSession(engine / "cpu.onnx", providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "option",
    [
        {"max_batch_size": 1},
        {"cache": False},
        {"backend": "tensorrt"},
        {"plan": Path("x.yaml")},
        {"requantize": "tensor"},
    ],
)
def test_finishing_takes_no_options_that_are_decided(
    llama_export: Path, tmp_path: Path, option: dict[str, Any]
) -> None:
    with pytest.raises(UnavailableError):
        build_engine(
            BuildConfig(model=llama_export, arch="hopper", precision="bf16", output=tmp_path / "build")
        )
    with pytest.raises(ConfigError, match="its options already"):
        build_engine(BuildConfig(model=tmp_path / "build", **option))


@pytest.mark.parametrize(
    "damage",
    [
        {"status": None},
        {"backend": "x"},
        {"backend": ["tensorrt"]},
        {"sms": ["x"]},
        {"files": None},
        {"files": [{"file": "../other"}]},
    ],
    ids=str,
)
def test_a_damaged_unfinished_build_is_refused(
    llama_export: Path, tmp_path: Path, damage: dict[str, Any]
) -> None:
    with pytest.raises(UnavailableError):
        build(llama_export, tmp_path / "build", "hopper", "bf16")
    write_manifest(tmp_path / "build", read_manifest(tmp_path / "build") | damage)
    with pytest.raises(ArtifactError, match="manifest of a build is not valid"):
        build_engine(BuildConfig(model=tmp_path / "build"))
