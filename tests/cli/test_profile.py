"""`r1trt profile`: what it prints, what it writes, what it loads, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import write_deepseek, write_llama

from r1trt.cli import cli, main
from r1trt.profile.options import BREAKDOWNS, METRICS

ARTICLE = ("--metrics", "latency,flops,memory", "--breakdown", "layer_type")


def requests(tmp_path: Path, **content: Any) -> str:
    path = tmp_path / "test.json"
    path.write_text(json.dumps(content or {"batch": 8, "prompt_tokens": 512, "new_tokens": 128}))
    return str(path)


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(capsys.readouterr().out)
    return loaded


def test_what_is_offered_is_what_there_is() -> None:
    options = {parameter.name: parameter for parameter in cli.commands["profile"].params}
    assert options["breakdown"].type.choices == BREAKDOWNS  # type: ignore[attr-defined]
    assert options["metrics"].default == ",".join(METRICS)


def test_the_articles_own_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--model", "r1-70b", "--input", requests(tmp_path), *ARTICLE]) == 0
    page = capsys.readouterr().out
    for text in (
        "r1-70b: LlamaForCausalLM, 80 layers, bf16 on H100 SXM 80 GB",
        "8 x 512 prompt tokens, 128 new ones",
        "prefill, 1 call, 4096 tokens",
        "decode, 127 calls, 1016 tokens",
        "bottleneck: dense mlp, 78.8% of the time, bound by compute",
        "bound by memory",
        "do not fit into the 80.0 GB of one h100",
    ):
        assert text in page, text


def test_shapes_alone_load_no_runtime(tmp_path: Path) -> None:
    """What takes a second to import is not needed for a table."""
    code = "import sys; from r1trt.cli import main; print(main(sys.argv[1:]), *sys.modules)"
    command = [sys.executable, "-c", code, "profile", "r1-70b", "--input", requests(tmp_path), *ARTICLE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    heavy = {"torch", "onnxruntime", "transformers", "matplotlib", "tensorrt", "tensorrt_rtx", "jinja2"}
    code, *modules = done.stdout.splitlines()[-1].split()
    assert code == "0" and "r1trt.profile.profile" in modules and not heavy & set(modules)


def test_json_has_what_the_document_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "r1-671b", "--input", requests(tmp_path), "--on", "h200", "--json"]) == 0
    found = result(capsys)
    document = (Path(__file__).parents[2] / "docs" / "profiling.md").read_text(encoding="utf-8")
    phase = found["phases"][0]
    for keys in (found, found["device"], found["requests"], phase, phase["rows"][0]):
        assert not [key for key in keys if f"`{key}`" not in document]
    total, rows = phase["total"], phase["rows"]
    assert sum(row["flops"] for row in rows) == total["flops"] == sum(total["flops_by_type"].values())
    assert total["share"] == 1.0 and found["schema"] == 1


def test_page_and_figures_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, page = tmp_path / "out" / "profile", tmp_path / "page.html"
    assert main(["profile", "v2-lite", "-o", str(output), "--html", str(page)]) == 0
    assert f"page: {output / 'report.html'}" in capsys.readouterr().out
    assert (output / "report.html").read_text() == page.read_text()
    assert json.loads((output / "profile.json").read_text())["model"] == "v2-lite"


def test_equal_layers_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "r1-671b", "--breakdown", "layer", "--metrics", "flops"]) == 0
    page = capsys.readouterr().out
    assert "layer 0 to layer 2, each" in page and "layer 3 to layer 60, each" in page
    assert "bottleneck" not in page and " ms" not in page
    assert main(["profile", "r1-671b", "--breakdown", "layer", "--json"]) == 0
    assert len(result(capsys)["phases"][0]["rows"]) == 61 + 3


def test_checkpoint_and_configuration_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = write_deepseek(tmp_path / "model")
    totals = []
    for source in (checkpoint, checkpoint / "config.json"):
        assert main(["profile", str(source), "--on", "cpu", "--json"]) == 0
        found = result(capsys)
        totals.append([phase["total"] for phase in found["phases"]])
        assert found["precision"] == "fp32" and found["requests"]["prompt_tokens"] == [192]
    assert totals[0] == totals[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["r1-71b"], "There is no such model"),
        (["r1-70b", "--on", "a100", "--precision", "fp8"], "cannot run FP8"),
        (["r1-70b", "--on", "cpu", "--precision", "bf16"], "cpu does not compute in bf16"),
        (["r1-70b", "--on", "h100", "--precision", "int4"], "cannot run INT4"),
    ],
)
def test_what_cannot_be_profiled(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_requests_beyond_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = requests(tmp_path, prompt_tokens=40900, new_tokens=100)
    assert main(["profile", "qwen3-8b", "--input", long]) == 1
    assert "beyond the positions" in capsys.readouterr().err
    assert main(["profile", "qwen3-8b", "--input", requests(tmp_path, prompt_tokens=0)]) == 1
    printed = capsys.readouterr()
    assert "prompt_tokens is 0" in printed.err and not printed.out


def test_nothing_is_written_where_something_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    broken = requests(tmp_path, prompts=["a"])
    assert main(["profile", str(write_llama(tmp_path / "model")), "--input", broken, "-o", str(output)]) == 1
    assert "need a tokenizer" in capsys.readouterr().err and not output.exists()


def test_a_repository_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from small_engine import repository_manifest

    from r1trt.artifacts.manifest import write_manifest

    write_manifest(tmp_path, repository_manifest())
    assert main(["profile", str(tmp_path)]) == 1
    assert "nothing that can be profiled" in capsys.readouterr().err
