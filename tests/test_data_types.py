from __future__ import annotations

import subprocess
import sys

import onnx_ir as ir
import pytest
from tritonclient.grpc import model_config_pb2

from r1trt.data_types import DATA_TYPES, OF_ONNX, OF_SAFETENSORS, OF_TENSORRT, DataType


@pytest.mark.parametrize("row", DATA_TYPES.values(), ids=list(DATA_TYPES))
def test_the_formats_agree_on_a_type(row: DataType) -> None:
    onnx_type = ir.DataType(row.onnx)
    assert onnx_type.name == row.onnx_name
    assert onnx_type.numpy() == row.numpy and onnx_type.itemsize * 8 == row.bits
    assert row.triton is None or row.triton in dict(model_config_pb2.DataType.items())


def test_every_name_means_one_type() -> None:
    assert len(OF_SAFETENSORS) == len(OF_ONNX) == len(DATA_TYPES)
    assert OF_TENSORRT["HALF"] is DATA_TYPES["fp16"] is OF_SAFETENSORS["F16"]
    assert OF_ONNX[ir.DataType.FLOAT8E4M3FN] is DATA_TYPES["fp8_e4m3"] is OF_TENSORRT["FP8"]


def test_tensorrt_knows_its_names() -> None:
    import tensorrt_rtx

    for name in OF_TENSORRT:
        assert hasattr(tensorrt_rtx.DataType, name)


def test_the_table_needs_no_onnx() -> None:
    code = "import sys, r1trt.data_types; assert not {'onnx', 'onnx_ir'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
