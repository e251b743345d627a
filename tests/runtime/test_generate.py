from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoints import IM_END, write_llama
from transformers import AutoTokenizer, LlamaForCausalLM

from r1trt.errors import CheckpointError, ConfigError, R1TrtError
from r1trt.export.export import ExportConfig, export_checkpoint
from r1trt.runtime.generate import GenerateConfig, generate
from r1trt.runtime.generation import Generation
from r1trt.runtime.session import SessionError
from r1trt.tokenizer.stop_texts import StopTexts

CAPACITY = 64
PROMPT = "Every function writes"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("llama") / "checkpoint", tokenizer=True, seed=4)


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Path:
    """An export runs as it is."""
    output = checkpoint.parent / "export"
    return export_checkpoint(ExportConfig(checkpoint=checkpoint, output=output, max_seq_len=CAPACITY))


def run(engine: Path, **options: Any) -> tuple[str, Generation]:
    generation = generate(GenerateConfig(engine=engine, **{"prompt": PROMPT, **options}))
    return "".join(generation), generation


@pytest.mark.parametrize("raw", [True, False])
def test_greedy_tokens_equal_transformers(checkpoint: Path, engine: Path, raw: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    if raw:
        ids = tokenizer(PROMPT).input_ids
    else:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": PROMPT}], add_generation_prompt=True, return_dict=False
        )
    model = LlamaForCausalLM.from_pretrained(checkpoint)
    want = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64), do_sample=False,
        max_new_tokens=20, pad_token_id=IM_END,
    )  # fmt: skip
    text, generation = run(engine, raw=raw, max_new_tokens=20)
    assert generation.token_ids == want[0, len(ids) :].tolist()
    assert text.startswith(tokenizer.decode(generation.token_ids, skip_special_tokens=True).rstrip("\ufffd"))
    assert generation.statistics is not None
    assert generation.statistics.prompt_tokens == len(ids)
    assert generation.statistics.new_tokens == len(generation.token_ids)


def test_statistics(engine: Path) -> None:
    _, generation = run(engine, raw=True, max_new_tokens=5)
    statistics = generation.statistics
    assert statistics is not None
    assert statistics.finish_reason == "length" and statistics.new_tokens == 5
    assert 0 < statistics.time_to_first_token < 60 and 0 < statistics.load_seconds < 60
    assert statistics.prefill_tokens_per_second == statistics.prompt_tokens / statistics.time_to_first_token
    assert statistics.decode_tokens_per_second is not None and statistics.decode_tokens_per_second > 0
    assert statistics.to_dict()["finish_reason"] == "length"


def test_generation_ends_where_the_cache_is_full(engine: Path) -> None:
    _, generation = run(engine, raw=True, max_new_tokens=1000)
    assert generation.statistics is not None
    assert generation.statistics.finish_reason == "capacity"
    # The last token is given out without entering the cache.
    assert generation.statistics.prompt_tokens + generation.statistics.new_tokens == CAPACITY + 1


def test_generation_ends_at_eos(checkpoint: Path, engine: Path, tmp_path: Path) -> None:
    _, free = run(engine, raw=True, max_new_tokens=10)
    copy = export_checkpoint(
        ExportConfig(checkpoint=checkpoint, output=tmp_path / "export", max_seq_len=CAPACITY)
    )
    (copy / "generation_config.json").write_text(f'{{"eos_token_id": [{free.token_ids[4]}]}}')
    _, generation = run(copy, raw=True, max_new_tokens=10)
    assert generation.statistics is not None
    assert generation.statistics.finish_reason == "eos"
    assert generation.token_ids == free.token_ids[: free.token_ids.index(free.token_ids[4]) + 1]


def test_generation_ends_at_a_stop_text(engine: Path) -> None:
    whole, _ = run(engine, raw=True, max_new_tokens=30)
    stop = whole[8:11]
    text, generation = run(engine, raw=True, max_new_tokens=30, stop=(stop, "never there"))
    assert text == whole[: whole.index(stop)]
    assert generation.statistics is not None and generation.statistics.finish_reason == "stop"


def test_sampling_repeats_with_its_seed(engine: Path) -> None:
    options: dict[str, Any] = {"raw": True, "temperature": 1.5, "max_new_tokens": 20}
    first, second, other = (run(engine, seed=seed, **options)[1].token_ids for seed in (1, 1, 2))
    assert first == second != other


def test_messages(engine: Path) -> None:
    messages = ({"role": "user", "content": PROMPT},)
    assert run(engine, prompt=None, messages=messages)[1].token_ids == run(engine)[1].token_ids


def test_a_system_text_is_a_message(engine: Path) -> None:
    messages = ({"role": "system", "content": "Be short."}, {"role": "user", "content": PROMPT})
    want = run(engine, prompt=None, messages=messages)[1].token_ids
    assert run(engine, system="Be short.")[1].token_ids == want


def test_the_models_own_sampling_is_used_and_named(engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "engine")
    content = '{"do_sample": true, "temperature": 1.5, "top_k": 7, "repetition_penalty": 1.2}'
    (copy / "generation_config.json").write_text(content)
    options: dict[str, Any] = {"max_new_tokens": 8, "seed": 1}
    _, own = run(copy, **options)
    assert own.token_ids == run(engine, temperature=1.5, top_k=7, **options)[1].token_ids
    assert own.token_ids != run(copy, temperature=0.0, **options)[1].token_ids
    assert own.statistics is not None and own.statistics.sampling.text == "temperature 1.5, top-k 7"
    assert own.notes == ("generation_config.json asks for repetition_penalty 1.2, which is not done here.",)


def test_options_without_effect_are_named(engine: Path) -> None:
    quiet = {"max_new_tokens": 2}
    assert run(engine, top_k=5, **quiet)[1].notes == ("top-k has no effect at temperature 0.",)
    notes = ("top-k and top-p and seed have no effect at temperature 0.",)
    assert run(engine, top_k=5, top_p=0.5, seed=3, **quiet)[1].notes == notes
    assert run(engine, top_k=5, temperature=1.0, **quiet)[1].notes == ()
    assert run(engine, **quiet)[1].notes == ()


def test_without_a_template_the_prompt_is_a_text_to_go_on_with(engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "engine")
    (copy / "chat_template.jinja").unlink()
    _, generation = run(copy, max_new_tokens=4)
    assert generation.token_ids == run(engine, raw=True, max_new_tokens=4)[1].token_ids
    assert generation.notes == ("The model has no chat template: it goes on with the prompt as it stands.",)
    assert run(copy, raw=True, max_new_tokens=4)[1].notes == ()
    with pytest.raises(ConfigError, match="no chat template"):
        run(copy, system="Be short.")


def test_templates_without_a_default_are_not_passed_over(engine: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(engine, tmp_path / "engine")
    (copy / "additional_chat_templates").mkdir()
    (copy / "chat_template.jinja").rename(copy / "additional_chat_templates" / "tool_use.jinja")
    with pytest.raises(ConfigError, match=r"none is the default(.|\n)*tool_use(.|\n)*--raw"):
        run(copy)
    assert run(copy, raw=True, max_new_tokens=4)[1].notes == ()


def test_a_prompt_longer_than_the_cache(engine: Path) -> None:
    with pytest.raises(SessionError, match=f"longer than the engine's KV cache(.|\n)*at most {CAPACITY}"):
        run(engine, prompt="word " * 200)


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": None},
        {"messages": ({"role": "user", "content": "x"},)},
        {"prompt": None, "messages": ({"role": "user", "content": "x"},), "raw": True},
        {"max_new_tokens": 0},
        {"prompt": "x", "raw": True, "system": "y"},
        {"prompt": None, "messages": ({"role": "user", "content": "x"},), "system": "y"},
        {"stop": ("",)},
        {"stop": ("x", "\udcff")},
        {"temperature": -1.0},
    ],
)
def test_options_that_contradict(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        GenerateConfig(**{"engine": tmp_path, "prompt": "x", **options})


def test_directories_that_hold_no_model(tmp_path: Path, engine: Path) -> None:
    with pytest.raises(R1TrtError, match="not an r1trt artifact"):
        run(tmp_path)
    shutil.copytree(engine, tmp_path / "engine")
    (tmp_path / "engine" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer"):
        run(tmp_path / "engine")


STOP_CASES = {
    "no stop texts": ((), ["ab", "c"], "abc", False),
    "inside a piece": (("b",), ["abc"], "a", True),
    "across pieces": (("bcd",), ["ab", "c", "de"], "a", True),
    "held back, then let go": (("bcd",), ["ab", "c", "x"], "abcx", False),
    "held back at the end": (("bcd",), ["ab", "c"], "abc", False),
    "the earliest wins": (("d", "bc"), ["abcd"], "a", True),
    "overlapping starts": (("aab",), ["aa", "ab"], "a", True),
}


@pytest.mark.parametrize("case", STOP_CASES)
def test_stop_texts(case: str) -> None:
    stops, pieces, expected, found = STOP_CASES[case]
    stop = StopTexts(stops)
    text = "".join(stop.push(piece) for piece in pieces if not stop.found) + stop.finish()
    assert (text, stop.found) == (expected, found)
