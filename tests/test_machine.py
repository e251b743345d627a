"""How many processors a process may use: by control groups of both versions, and by cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from r1trt.machine import cores, physical_cores, processor_quota, processors
from r1trt.runtime.onnxruntime_model import LoadOptions, inference_session

V1, V1_JOINED = "4:memory:/a\n1:cpu:/pod/box\n0::/\n", "3:cpu,cpuacct:/pod/box\n"
QUOTAS: dict[str, tuple[str, dict[str, str], float | None]] = {
    "version 2, own": ("0::/pod/box\n", {"pod/box/cpu.max": "150000 100000\n"}, 1.5),
    "an ancestor's is smaller": (
        "0::/pod/box\n",
        {"pod/box/cpu.max": "400000 100000\n", "pod/cpu.max": "250000 100000\n", "cpu.max": "max 100000\n"},
        2.5,
    ),
    "no limit": ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000\n"}, None),
    "a container sees its own group as the root": ("0::/host/path\n", {"cpu.max": "50000 100000\n"}, 0.5),
    "from outside of its namespace": ("0::/../box\n", {"box/cpu.max": "300000 100000\n"}, 3.0),
    "beside version 1": ("0::/box\n", {"unified/box/cpu.max": "300000 100000\n"}, 3.0),
    "version 1": (
        V1,
        {"cpu/pod/box/cpu.cfs_quota_us": "200000\n", "cpu/pod/box/cpu.cfs_period_us": "50000\n"},
        4.0,
    ),
    "version 1, joined": (
        V1_JOINED,
        {"cpu,cpuacct/pod/cpu.cfs_quota_us": "70000\n", "cpu,cpuacct/pod/cpu.cfs_period_us": "100000\n"},
        0.7,
    ),
    "version 1, no limit": (
        V1,
        {"cpu/pod/box/cpu.cfs_quota_us": "-1\n", "cpu/pod/box/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "files that say nothing": ("0::/box\n", {"box/cpu.max": "", "cpu.max": "1 0\n"}, None),
    "no files": ("0::/box\n", {}, None),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas(name: str, tmp_path: Path) -> None:
    groups, files, expected = QUOTAS[name]
    own, root = tmp_path / "cgroup", tmp_path / "mounted"
    own.write_text(groups)
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    assert processor_quota(own, root) == expected


def test_without_control_groups_there_is_no_quota(tmp_path: Path) -> None:
    assert processor_quota(tmp_path / "none", tmp_path) is None


def test_two_threads_of_a_core_are_one(tmp_path: Path) -> None:
    for number in range(4):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{number % 2},{number % 2 + 2}\n")
    assert physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert physical_cores({0, 2}, tmp_path) == 1
    # Nothing is known of 7 and 8.
    assert physical_cores({0, 7, 8}, tmp_path) == 3


def test_affinity_and_quota_limit_the_processors() -> None:
    assert 1 <= cores() <= processors() <= len(os.sched_getaffinity(0))
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores() == processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize("threads", [None, 3])
def test_sessions_take_them_by_default(threads: int | None, tmp_path: Path) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["x"], ["y"])],
            "g",
            *([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in "xy"),
        ),
        opset_imports=[helper.make_opsetid("", 23)],
        ir_version=10,
    )
    session = inference_session(model.SerializeToString(), tmp_path, LoadOptions(threads=threads))
    assert session.get_session_options().intra_op_num_threads == (threads or cores())
