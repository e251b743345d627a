"""What is wrong with a cluster, or with the files on it, is said at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from r1trt.artifacts.build import BuildArtifact
from r1trt.cluster.config import ClusterConfig
from r1trt.cluster.connection import require_cluster
from r1trt.cluster.open import opened_stages
from r1trt.cluster.part import session_of_stage
from r1trt.errors import ConfigError, R1TrtError, UnavailableError, UsageError
from r1trt.package.limits import GenerationLimits
from r1trt.runtime.session import SessionError


def refusal(address: str, directory: Path) -> str:
    """What the stages of a directory are refused with, in time."""
    config = ClusterConfig(directory=directory, rows=1, threads=1, start_seconds=60.0)
    with pytest.raises(R1TrtError) as caught, opened_stages(address, config, print):
        pass
    return str(caught.value)


def test_a_cluster_that_is_not_there(parts: Path) -> None:
    assert "no cluster at this address" in refusal("127.0.0.1:1", parts)
    assert "ray start --head" in refusal("127.0.0.1:1", parts)


@pytest.mark.parametrize("address", ["", "somewhere", "127.0.0.1:", ":6379", "127.0.0.1:99999"])
def test_what_is_no_address(parts: Path, address: str) -> None:
    assert "no cluster's address" in refusal(address, parts)


def test_a_server_asks_first() -> None:
    with pytest.raises(UsageError, match="does not start a cluster"):
        require_cluster("local")
    with pytest.raises(UnavailableError, match="no cluster at this address"):
        require_cluster("127.0.0.1:1")


def test_a_server_needs_parts_and_pins_nothing(whole: Path) -> None:
    limits = GenerationLimits(cluster="127.0.0.1:6379")
    with pytest.raises(ConfigError, match="in parts"):
        limits.for_engine(BuildArtifact.read(whole).manifest)
    with pytest.raises(UsageError, match="cannot be pinned"):
        replace(limits, pinned_prompt="Be brief.")


def test_one_engine_has_no_stages(address: str, whole: Path) -> None:
    assert "in parts" in refusal(address, whole) and "--parts N" in refusal(address, whole)


def copied(parts: Path, target: Path) -> Path:
    return Path(shutil.copytree(parts, target / "parts"))


def test_a_part_that_a_node_lacks(address: str, parts: Path, tmp_path: Path) -> None:
    directory = copied(parts, tmp_path)
    shutil.rmtree(directory / "part-01")
    assert "Part 1 of 3 is missing" in refusal(address, directory)


def test_stages_in_the_wrong_order(address: str, parts: Path, tmp_path: Path) -> None:
    directory = copied(parts, tmp_path)
    (directory / "part-01").rename(directory / "other")
    (directory / "part-02").rename(directory / "part-01")
    (directory / "other").rename(directory / "part-02")
    assert "wrong order" in refusal(address, directory)


def test_a_cluster_that_is_too_small(address: str, parts: Path) -> None:
    config = ClusterConfig(directory=parts, threads=2)
    with pytest.raises(UnavailableError, match="too small") as caught, opened_stages(address, config, print):
        pass
    assert caught.value.details["found"].startswith("3 CPUs")


def test_a_machine_without_the_files(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="machine of stage 1 does not have the model") as caught:
        session_of_stage(tmp_path / "parts", 1, "0" * 64, threads=1)
    assert "r1trt-stage-1" in caught.value.details["fix"]


def test_a_machine_with_another_build(parts: Path) -> None:
    with pytest.raises(SessionError, match="machine of stage 1 has another build"):
        session_of_stage(parts, 1, "0" * 64, threads=1)
