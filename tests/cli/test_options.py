"""The command line is a promise: changing it means changing this table, and saying so in the changelog."""

from __future__ import annotations

import re

import click
import pytest

from r1trt.cli import cli, main
from r1trt.errors import R1TrtError, UnavailableError
from r1trt.plugin_checks.run import UNFINISHED

OPTIONS = {
    "estimate": "model --batch --max-seq-len --max-input-len --json",
    "export": "checkpoint --output -o --max-seq-len --copy --dry-run --last-token-logits --json",
    "build": (
        "model --arch --fp8 --int8 --int4 --bf16 --fp32 --plan --requantize --calibration"
        " --calibration-method --calibration-percentile --calibration-tokens --compensate"
        " --backend --max-batch-size"
        " --max-input-len --max-seq-len --no-cache --kv-cache"
        " --plugins --plugin-library --embed-plugins --trust-plugins"
        " --allow-fake-fp8 --timing-cache --dump-passes --parts --max-part-bytes --dry-run --output -o --json"
    ),
    "validate": "engine --reference --prompts --max-tokens --trust-plugins --json",
    "generate": (
        "engine --prompt --raw --prompt-lookup --system --max-new-tokens --temperature --top-k --top-p --seed"
        " --stop --thinking --threads --trust-plugins --cluster --json"
    ),
    "chat": (
        "engine --system --max-new-tokens --temperature --top-k --top-p --seed --stop --thinking --threads"
        " --trust-plugins --json"
    ),
    "triton": (
        "engine --output -o --model-name --trt-version --plugin-library --trust-plugins --rows --chunk-tokens"
        " --token-budget --max-queue --no-prefix-reuse --reuse-answers --pin-prompt --prompt-lookup --json"
    ),
    "serve": "engines --http-port --grpc-port --metrics-port --openai-port --openai-host --api-key-file"
    " --model-name --rows --drain-seconds --threads --prompt-lookup --no-prefix-reuse --reuse-answers"
    " --pin-prompt --cluster --json",
    "precision": "",
    "profile": (
        "model --model --input --metrics --breakdown --on --precision --no-measure --repeats --threads"
        " --trust-plugins --output -o --html --json"
    ),
    "prune": (
        "checkpoint --keep --remove --criterion --seed --calibration --calibration-tokens --heldout"
        " --heldout-tokens --dry-run --output -o --json"
    ),
    "finetune": (
        "checkpoint --fp8 --bf16 --arch --text --epochs --seq-len --batch --learning-rate --loss --seed"
        " --keep-layers --save-every --threads --heldout --heldout-tokens --output -o --json"
    ),
    "plugins": "",
    "inspect": "path --json",
    "doctor": "--json",
}


def test_commands_are_these() -> None:
    assert set(cli.commands) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_are_these(name: str) -> None:
    found = {option for parameter in cli.commands[name].params for option in parameter.opts}
    assert found == set(OPTIONS[name].split())


@pytest.mark.parametrize("name", OPTIONS)
def test_help_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"Usage: r1trt {name}" in text
    for parameter in cli.commands[name].params:
        if isinstance(parameter, click.Option):
            assert parameter.opts[-1] in text and parameter.help


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "--arch", "volta"], "'volta' is not one of"),
        (["build", "--arch", "ada", "--fp8", "--bf16"], "--fp8 and --bf16 exclude each other"),
        (["export"], "Missing argument"),
        (["generate", ".", "--prompt", "x", "--temperature", "-1"], "-1"),
        (["generate", ".", "--prompt", "x", "--thinking", "loud"], "'loud' is not one of"),
        (["profile", "r1-70b", "--metrics", "latency,speed"], "there is no metric 'speed'"),
        (["profile", "r1-70b", "--model", "r1-70b"], "One model is profiled"),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_exits_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err and not printed.out


def test_help_explains_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    described = re.findall(r"\b(\d) [a-z]", text[text.index("Exit codes:") :])
    assert described == [
        "0",
        *map(str, (R1TrtError.exit_code, click.UsageError.exit_code, UnavailableError.exit_code, UNFINISHED)),
    ]
