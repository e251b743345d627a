"""FP8 weights and the scales of their blocks: both there, and of types and shapes that fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from r1trt.checkpoint.names import bullet_list
from r1trt.checkpoint.safetensors_header import TensorRef
from r1trt.config import ModelConfig, scale_shape
from r1trt.families.tensors import may_be_fp8

FP8 = "F8_E4M3"
SCALE_DTYPE = "F32"
"""Type of the scales that DeepSeek publishes."""
SCALE_DTYPES = (SCALE_DTYPE, "BF16", "F16")

Shapes = Mapping[str, tuple[int, ...]]
Held = Mapping[str, TensorRef]


def is_block_fp8(config: ModelConfig, ref: TensorRef) -> bool:
    """Whether a tensor is FP8, and may be."""
    return ref.dtype == FP8 and may_be_fp8(config, ref.name)


def weight_of_scales(config: ModelConfig, name: str) -> str | None:
    """Name of the weight whose scales a tensor has to be by its name; None where it is no such tensor."""
    if config.quantization is None or not name.endswith(config.quantization.scale_suffix):
        return None
    return name.removesuffix(config.quantization.scale_suffix)


def scales_of_weight(config: ModelConfig, name: str) -> str:
    """Name of the scales of an FP8 weight.

    Raises:
        ValueError: No weight of the checkpoint is FP8.
    """
    if config.quantization is None:
        raise ValueError(f"{name} has no scales: the checkpoint is not FP8")
    return f"{name}{config.quantization.scale_suffix}"


def block_scales(config: ModelConfig, expected: Shapes, held: Held) -> dict[str, TensorRef]:
    """The scales of a checkpoint's FP8 weights, by their own names; those that are missing are left out."""
    names = (scales_of_weight(config, name) for name in _fp8_weights(config, expected, held))
    return {name: held[name] for name in names if name in held}


def scale_findings(config: ModelConfig, expected: Shapes, held: Held) -> list[str]:
    """What is wrong with FP8 weights and scales, as lines of a message."""
    weights = list(_fp8_weights(config, expected, held))
    scales = block_scales(config, expected, held)
    wanted = {scales_of_weight(config, name): scale_shape(expected[name]) for name in weights}
    lonely = sorted(
        name
        for name in held.keys() - wanted.keys()
        if (weight := weight_of_scales(config, name)) is not None and weight in expected
    )
    return [
        *bullet_list(
            "missing scales of FP8 weights",
            (f"{name} {list(shape)}" for name, shape in wanted.items() if name not in scales),
        ),
        *bullet_list("scales without FP8 weights", lonely),
        *bullet_list(
            "wrong scales",
            (
                f"{name}: {ref.dtype} {list(ref.shape)} instead of {SCALE_DTYPE} {list(wanted[name])}"
                for name, ref in scales.items()
                if ref.dtype not in SCALE_DTYPES or ref.shape != wanted[name]
            ),
        ),
        *bullet_list("FP8 in some of a layer's experts", _mixed_experts(expected, held, set(weights))),
    ]


def _fp8_weights(config: ModelConfig, expected: Shapes, held: Held) -> Iterator[str]:
    return (name for name in expected if name in held and is_block_fp8(config, held[name]))


def _mixed_experts(expected: Shapes, held: Held, fp8: set[str]) -> Iterator[str]:
    """Layers whose experts differ: they are stacked into one weight."""
    layers: dict[str, set[bool]] = {}
    for name in expected.keys() & held.keys():
        layer, experts, _ = name.partition(".experts.")
        if experts:
            layers.setdefault(layer + experts, set()).add(name in fp8)
    return (f"{layer}*" for layer, kinds in sorted(layers.items()) if len(kinds) > 1)
