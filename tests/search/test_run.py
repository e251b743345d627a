"""Whole searches of a tiny model: budgets, the front, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
from tiny_checkpoints import write_tokenizer

from r1trt.artifacts import BuildArtifact
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.cli import main
from r1trt.data import CALIBRATION
from r1trt.errors import ConfigError, PlanError, UsageError
from r1trt.export.io import load_export
from r1trt.precision.plan_file import load_plan
from r1trt.precision.rules import THRESHOLDS
from r1trt.search.config import Budget, SearchConfig
from r1trt.search.result import SearchResult
from r1trt.search.run import search_precision
from r1trt.search.search import keeps
from r1trt.search.times import Workload

SHORT = Path(__file__).parent / "short.txt"
TOKENS: dict[str, Any] = {"screen_tokens": 256, "search_tokens": 512, "final_tokens": 512, "window": 32}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("R1TRT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def searched(export: Path, output: Path, budget: Budget | None, **options: Any) -> SearchResult:
    config = SearchConfig(model=export, arch="ada", budget=budget, output=output, **{**TOKENS, **options})
    result, directory = search_precision(config)
    assert directory == output
    return result


@pytest.fixture(scope="module")
def result(llama_export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchResult, Path]:
    output = tmp_path_factory.mktemp("search") / "found"
    every = searched(llama_export, output.parent / "all", Budget(kl=1e9))
    (widest,) = [point for point in every.points if point.name == "all BF16"]
    (narrow,) = [point for point in every.points if point.name == "all FP8"]
    assert widest.final is not None and narrow.final is not None
    between = widest.final.kl.high + 0.5 * (narrow.final.kl.mean - widest.final.kl.mean)
    return searched(llama_export, output, Budget(kl=between)), output


def test_int8_serves_where_there_is_no_fp8(llama_export: Path, tmp_path: Path) -> None:
    config = SearchConfig(
        model=llama_export, arch="ampere", budget=Budget(kl=1e9), output=tmp_path / "found", **TOKENS
    )
    found, directory = search_precision(config)
    assert {kind for kinds in found.damages.values() for kind in kinds} == {
        "int8 weights",
        "int8 by row",
        "int8",
    }
    assert {point.name for point in found.points} >= {"all BF16", "rules", "all INT8"}
    assert set(found.chosen.kinds.values()) == {"int8"}
    engine = build_engine(
        BuildConfig(
            model=llama_export, arch="ampere", plan=directory / "plan.yaml", output=tmp_path / "engine"
        )
    )
    check = BuildArtifact.read(engine).manifest.network_check
    assert check["disobeyed"] == 0 and check["executed"] > 0
    layers = {layer["name"]: layer for layer in json.loads((engine / "layers.json").read_text())["layers"]}
    product = layers["model.layers.0.self_attn.q_proj"]["executed"]
    assert product and all(text.startswith("int8 x int8 -> ") for text in product)


def test_blocks_serve_on_a_cpu(llama_export: Path, tmp_path: Path) -> None:
    config = SearchConfig(
        model=llama_export, arch="cpu", budget=Budget(kl=1e9), output=tmp_path / "found", **TOKENS
    )
    found, directory = search_precision(config)
    assert {kind for kinds in found.damages.values() for kind in kinds} == {"int8", "int4"}
    assert {point.name for point in found.points} >= {"all FP32", "rules", "all INT4"}
    # An embedding is not narrower than INT8.
    kinds = dict(found.chosen.kinds)
    assert kinds.pop("model.embed_tokens") == "int8"
    assert set(kinds.values()) == {"int4"} and found.chosen.narrow_share == 1.0
    engine = build_engine(
        BuildConfig(model=llama_export, arch="cpu", plan=directory / "plan.yaml", output=tmp_path / "engine")
    )
    operators = [node.op_type for node in onnx.load(engine / "cpu.onnx").graph.node]
    assert "MatMulNBits" in operators and "MatMul" not in operators
    plan = load_plan(engine / "precision.yaml")
    linears = [name for layers in found.groups.values() for name in layers if name != "model.embed_tokens"]
    assert plan.calibration["compensated_layers"] == len(linears)
    assert plan.thresholds.agreement_min == THRESHOLDS["int4"].agreement_min
    nearest = build_engine(
        BuildConfig(
            model=llama_export, arch="cpu", plan=engine / "precision.yaml", compensate=False,
            output=tmp_path / "nearest",
        )
    )  # fmt: skip
    assert "compensated_layers" not in load_plan(nearest / "precision.yaml").calibration
    with pytest.raises(UsageError, match="nothing to compensate"):
        build_engine(BuildConfig(model=llama_export, arch="cpu", precision="fp32", compensate=True))


def test_without_a_limit_everything_is_the_cheapest(llama_export: Path, tmp_path: Path) -> None:
    found = searched(llama_export, tmp_path / "all", Budget(kl=1e9))
    assert found.chosen.narrow_share == found.chosen.fp8_share == 1.0
    assert found.chosen.seconds == min(point.seconds for point in found.front)


def test_the_plan_keeps_the_budget_and_is_cheaper_than_bf16(result: tuple[SearchResult, Path]) -> None:
    found, directory = result
    budget = Budget(kl=float(found.goal.split()[-2]))
    (widest,) = [point for point in found.points if point.name == "all BF16"]
    assert found.chosen.searched is not None and keeps(found.chosen.searched, Budget(kl=budget.nats * 1.01))
    assert len(set(found.chosen.kinds.values())) > 1 and found.chosen.seconds < widest.seconds
    plan = load_plan(directory / "plan.yaml")
    assert not plan.missing_scales
    reasons = {layer.reason.partition(";")[0] for layer in plan.layers.values() if "searched" in layer.reason}
    assert reasons <= {f"searched: {kind}" for kind in ("bf16", "int8 weights", "fp8", "fp8 by row")}
    (rules,) = [point for point in found.points if point.name == "rules"]
    assert set(rules.kinds.values()) == {"fp8", "bf16"}
    greedy, chance = (
        next(point for point in found.points if point.name.startswith(name)) for name in ("greedy", "random")
    )
    assert found.chosen.seconds <= min(greedy.seconds, chance.seconds) * (1 + 1e-9)


def test_the_plan_is_built_and_obeyed(
    llama_export: Path, result: tuple[SearchResult, Path], tmp_path: Path
) -> None:
    config = BuildConfig(
        model=llama_export, arch="ada", plan=result[1] / "plan.yaml", output=tmp_path / "engine"
    )
    build = BuildArtifact.read(build_engine(config))
    assert build.manifest.network_check["disobeyed"] == 0
    executed = json.loads(build.layers.read_text())["executed"]["sm89"]["products"]
    kinds = {name: layer.input for name, layer in result[0].plan.layers.items() if layer.weight is not None}
    for product in executed:
        for layer in product["layers"]:
            assert product["inputs"][0] == kinds[layer], product


def test_page_and_figures_hold_the_same(result: tuple[SearchResult, Path]) -> None:
    found, directory = result
    figures = json.loads((directory / "search.json").read_text())
    assert figures["chosen"]["final"]["tokens"] == found.facts["final_tokens"]
    assert len(figures["front"]) == len(found.front) > 3
    page = (directory / "report.html").read_text()
    assert page.count("<svg") == 2 and f"{100 * found.chosen.fp8_share:.1f} %" in page
    assert "all FP8" in page and "greedy" in page


def test_a_point_of_the_front_can_be_taken(llama_export: Path, tmp_path: Path) -> None:
    found = searched(llama_export, tmp_path / "front", None, from_front=2)
    assert found.chosen.kinds == found.front[1].kinds
    assert (found.goal, found.facts["keeps_heldout"]) == ("point 2 of the front", None)
    page = (tmp_path / "front" / "report.html").read_text()
    assert "Goal: point 2 of the front." in page and "beyond the budget" not in page
    held = searched(llama_export, tmp_path / "held", Budget(kl=1e-9), from_front=2)
    assert held.goal == "point 2 of the front, held against a KL divergence of at most 1e-09 nats"
    assert held.facts["keeps_heldout"] is False
    with pytest.raises(ConfigError, match="no such point"):
        searched(llama_export, tmp_path / "other", None, from_front=999)


def test_what_was_measured_is_not_measured_again(
    llama_export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R1TRT_CACHE", str(tmp_path / "cache"))
    phases: list[tuple[str, int, int]] = []
    config = SearchConfig(
        model=llama_export, arch="ada", budget=Budget(kl=1e9), output=tmp_path / "a", **TOKENS
    )

    class CutOffError(Exception):
        pass

    total_of_first: list[int] = []

    def interrupt(phase: str, done: int, total: int) -> None:
        total_of_first[:] = [total] if phase == "measuring layers" else total_of_first
        if phase == "measuring layers" and done == 5:
            raise CutOffError

    with pytest.raises(CutOffError):
        search_precision(config, interrupt)
    search_precision(config, lambda *event: phases.append(event))
    assert {"running FP32 on search text", "running all wide on search text"} < {phase[0] for phase in phases}
    assert {"running FP32 on held-out text", "running all BF16 on held-out text"} < {
        item[0] for item in phases
    }
    measured = [(done, total) for phase, done, total in phases if phase == "measuring layers"]
    assert (measured[0][1], measured[-1][0]) == (total_of_first[0] - 5, total_of_first[0] - 5)
    search_precision(config, lambda *event: phases.append(event))
    assert [event for event in phases if event[0] == "measuring layers"][-1] == ("measuring layers", 0, 0)


def test_bytes_are_another_objective(llama_export: Path, tmp_path: Path) -> None:
    found = searched(llama_export, tmp_path / "bytes", Budget(kl=1e9), minimize="bytes")
    (widest,) = [point for point in found.points if point.name == "all BF16"]
    assert found.chosen.bytes == widest.bytes / 2


def test_a_budget_that_cannot_be_met_says_what_can(llama_export: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="not even the widest types keep it") as caught:
        searched(llama_export, tmp_path / "none", Budget(kl=1e-9))
    assert "all of the widest types: " in caught.value.details["expected"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"heldout": SHORT}, "heldout text is too short to measure on[^$]*short.txt[^$]*--heldout"),
        ({"calibration": SHORT}, "calibration text is too short to measure on[^$]*short.txt"),
        ({"heldout": CALIBRATION}, "nothing else reads"),
        ({"device": "h100"}, "No such device of --arch ada"),
        ({"device": "abacus"}, "No such device"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    llama_export: Path, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    values = {"arch": "ada", "budget": Budget(kl=1.0), **TOKENS, **options}
    with pytest.raises((ConfigError, PlanError), match=says):
        search_precision(SearchConfig(model=llama_export, output=tmp_path / "none", **values))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("values", [{}, {"kl": 0.1, "perplexity_increase": 0.1}])
def test_there_is_one_budget(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="one budget"):
        Budget(**values)
    with pytest.raises(ConfigError, match="needs a budget") as caught:
        SearchConfig(model=Path("model"), arch="ada")
    assert "--from-front" in caught.value.details["expected"]


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_budgets_are_above_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        Budget(perplexity_increase=value)


def test_a_workload_has_calls() -> None:
    (prompt, once), (step, often) = Workload(batch=2, prompt_tokens=100, new_tokens=8).calls
    assert (prompt.tokens, prompt.past, once) == (100, 0, 1)
    assert (step.tokens, step.past, step.batch, often) == (1, 104, 2, 8)
    with pytest.raises(ConfigError):
        Workload(new_tokens=0)


ARGUMENTS = ["--screen-tokens", "256", "--search-tokens", "256", "--final-tokens", "256"]


def test_the_command(llama_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = str(tmp_path / "found")
    budget = ["--max-perplexity-increase", "900%"]
    assert (
        main(["precision", "search", str(llama_export), "--arch", "ada", *budget, *ARGUMENTS, "-o", output])
        == 0
    )
    text = capsys.readouterr().out
    assert "searched" in text and "100.0%" in text and f"plan: {output}/plan.yaml" in text
    assert "nothing narrower" not in text and "minimized: modelled time on L40S" in text
    following = f"next: r1trt build {llama_export} --arch ada --plan {output}/plan.yaml"
    assert following in text.splitlines()
    assert main(["precision", "search", str(llama_export), "--arch", "ada", *ARGUMENTS]) == 2
    assert "needs a budget" in capsys.readouterr().err


@pytest.fixture(scope="module")
def plan(result: tuple[SearchResult, Path]) -> str:
    return str(result[1] / "plan.yaml")


def test_a_plan_is_shown_with_a_picture(
    llama_export: Path, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "plan.svg"
    assert main(["precision", "show", plan, "--model", str(llama_export), "-o", str(picture), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert set(shown["seconds"]) == set(load_plan(Path(plan)).layers)
    drawn = picture.read_text()
    assert drawn.count("<rect") >= len(shown["seconds"]) and "#3a8f5c" in drawn and "lm_head" in drawn


def test_plans_are_compared(
    llama_export: Path, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    searched(llama_export, tmp_path / "all", Budget(kl=1e9))
    assert main(["precision", "diff", plan, plan]) == 0
    assert "the same types and scales" in capsys.readouterr().out
    assert main(["precision", "diff", plan, str(tmp_path / "all" / "plan.yaml")]) == 0
    text = capsys.readouterr().out
    assert "input bf16 -> fp8_e4m3" in text and "layers differ" in text


def test_a_layer_is_explained(
    llama_export: Path, result: tuple[SearchResult, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    layer = "model.layers.0.self_attn.k_proj"
    command = ["precision", "explain", str(result[1]), layer]
    assert main([*command, "--model", str(llama_export), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["group"] == "model.layers.0.self_attn.q_proj+k_proj+v_proj"
    assert set(found["choices"]) == {"bf16", "int8 weights", "fp8 by row", "fp8"}
    (weight,) = found["weights"]
    errors = weight["errors"]
    assert weight["outliers"] > 1 and 0 < errors["fp8_e4m3 by row"] <= errors["fp8_e4m3"] < 0.1
    assert errors["int8 by row"] < errors["int8"] < 0.1
    assert main(["precision", "explain", str(result[1]), "k_proj"]) == 1
    assert layer in capsys.readouterr().err


def test_figures_without_groups_explain_nothing(
    result: tuple[SearchResult, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = tmp_path / "older"
    shutil.copytree(result[1], older)
    figures = json.loads((older / "search.json").read_text())
    assert figures["groups"]["model.layers.0.self_attn.q_proj+k_proj+v_proj"] == [
        f"model.layers.0.self_attn.{name}_proj" for name in "qkv"
    ]
    del figures["groups"]
    (older / "search.json").write_text(json.dumps(figures))
    assert main(["precision", "explain", str(older), "model.layers.0.self_attn.k_proj"]) == 1
    assert "do not say which layers chose together" in capsys.readouterr().err
    assert main(["precision", "explain", str(tmp_path), "model.layers.0.self_attn.k_proj"]) == 1
    assert "This directory holds no search." in capsys.readouterr().err


def test_a_prompt_is_bisected(llama_export: Path, plan: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["precision", "bisect", str(llama_export), plan, "--prompt", "The cat sat on the mat."]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    names = [piece["name"] for piece in found["pieces"]]
    assert names == ["embedding", "model.layers.0", "model.layers.1", "head"]
    assert found["pieces"][-1]["kl_so_far"] == pytest.approx(found["kl"])
    kls = [layer["kl"] for layer in found["layers"]]
    assert kls == sorted(kls, reverse=True) and kls[0] > 0
    assert main(command) == 0 and "next token:" in capsys.readouterr().out


def test_a_prompt_of_another_tokenizer_is_refused(
    llama_export: Path, plan: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export = tmp_path / "export"
    shutil.copytree(llama_export, export)
    larger = tmp_path / "larger"
    larger.mkdir()
    write_tokenizer(larger, 2 * load_export(export).config.vocab_size)
    shutil.copy(larger / "tokenizer.json", export / "tokenizer.json")
    assert main(["precision", "bisect", str(export), plan, "--prompt", "PreTrainedTokenizerFast"]) == 1
    assert "token ids that the model's vocabulary does not have" in capsys.readouterr().err


def test_of_hoppers_builder_nobody_knows_what_it_executes(
    llama_export: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["precision", "search", str(llama_export), "--from-front", "1", *ARGUMENTS]
    for arch, known in (("hopper", False), ("ada", True)):
        assert main([*command, "--arch", arch, "-o", str(tmp_path / arch)]) == 0
        page = (tmp_path / arch / "report.html").read_text()
        for text in (capsys.readouterr().out, page):
            assert ("has not been asked" in text) is not known
