"""Commands on manifests that were changed in one place: an error, and never a traceback."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from hostile_documents import mutants
from tiny_checkpoints import write_llama

from r1trt.artifacts import read_artifact
from r1trt.artifacts.errors import ArtifactError
from r1trt.build.config import BuildConfig
from r1trt.build.pipeline import build_engine
from r1trt.cli import main
from r1trt.errors import UnavailableError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.package.repository import TritonConfig, repository_from_engine

SEED, MUTANTS = 8, 40
# The two ports are refused once the manifest is read, before a server is installed or started.
SERVE = ["serve", "--http-port", "9000", "--grpc-port", "9000"]
VALIDATE = ["validate", "--max-tokens", "2"]
COMMANDS = {
    "export": (["inspect"], ["generate", "--prompt", "hi", "--max-new-tokens", "1"], VALIDATE, SERVE),
    "build": (
        ["inspect"],
        ["generate", "--prompt", "hi", "--max-new-tokens", "1"],
        ["triton", "-o", "OUTPUT"],
        VALIDATE,
        SERVE,
    ),
    "unfinished": (["inspect"], ["build"], ["triton", "-o", "OUTPUT"], SERVE),
    "repository": (["inspect"], ["generate", "--prompt", "hi"], ["triton", "-o", "OUTPUT"], VALIDATE, SERVE),
}


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory of each kind, of a small Llama."""
    directory = tmp_path_factory.mktemp("artifacts")
    checkpoint = write_llama(directory / "checkpoint", tokenizer=True, head_dim=64)
    export = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=directory / "export", max_seq_len=64)
    )
    build = build_engine(BuildConfig(model=export, arch="cpu", output=directory / "build"))
    with pytest.raises(UnavailableError):
        output = directory / "unfinished"
        build_engine(BuildConfig(model=export, arch="hopper", precision="bf16", output=output))
    repository_from_engine(TritonConfig(engines=(build,), output=directory / "repository"))
    return directory


def is_refused(directory: Path) -> bool:
    """Whether a directory's manifest cannot be read, whatever a command wants of it."""
    try:
        read_artifact(directory)
    except ArtifactError:
        return True
    return False


def blamed(directory: Path, error: str) -> Path:
    """What a command's error has to name where the manifest cannot be read."""
    return directory if "of another kind" in error else directory / "manifest.json"


@pytest.mark.parametrize("kind", COMMANDS)
def test_no_command_ends_in_a_traceback(
    artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    document = json.loads((artifacts / kind / "manifest.json").read_text())
    directory = shutil.copytree(artifacts / kind, tmp_path / kind)
    refused = 0
    for mutant in random.Random(SEED).sample(mutants(document), MUTANTS):
        (directory / "manifest.json").write_text(json.dumps(mutant))
        for command, *options in COMMANDS[kind]:
            output = str(tmp_path / "output")
            arguments = [output if option == "OUTPUT" else option for option in options]
            code = main([command, str(directory), *arguments])
            printed = capsys.readouterr()
            (printed.out + printed.err).encode("utf-8")
            # What `serve` is told of its ports is wrong by itself.
            assert code in (0, 1, 3) or (code == 2 and "ports have to differ" in printed.err), printed.err
            refused += "manifest.json" in printed.err
            if is_refused(directory):
                assert code == 1 and f"where: {blamed(directory, printed.err)}\n" in printed.err
    assert refused > MUTANTS / 4
