"""A foreign program in a process of its own: answers, limits, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from r1trt.errors import CheckpointError
from r1trt.tokenizer.limited_process import ForeignError, LimitedProcess, Limits
from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir
from r1trt.tokenizer.vetting import is_bounded

ECHO = b"{{ text }}"


def children() -> set[int]:
    return set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))


def test_threads_take_turns() -> None:
    process, answers = LimitedProcess("template", ECHO, Limits()), {}

    def ask(number: int) -> None:
        answers[number] = process.call({"text": str(number) * 100_000})

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) * 100_000 for number in range(8)}


def test_it_ends_with_its_owner() -> None:
    before = children()
    process = LimitedProcess("template", ECHO, Limits())
    assert process.call({"text": "a"}) == "a"
    assert children() - before
    del process
    assert children() == before


def test_it_ends_with_its_parent() -> None:
    code = """
        import os, time
        from pathlib import Path
        from r1trt.tokenizer.limited_process import LimitedProcess, Limits
        process = LimitedProcess("template", b"x", Limits())
        process.require_ready()
        print(Path(f"/proc/self/task/{os.getpid()}/children").read_text(), flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}/cmdline").exists()


def test_a_killed_process_is_replaced() -> None:
    before = children()
    process = LimitedProcess("template", ECHO, Limits())
    process.require_ready()
    (child,) = children() - before
    os.kill(child, signal.SIGKILL)
    with pytest.raises(ForeignError, match="ended"):
        process.call({"text": "a"})
    assert process.call({"text": "b"}) == "b"


def write(directory: Path, tokenizer: tokenizers.Tokenizer) -> None:
    tokenizer.save(str(directory / "tokenizer.json"))


def tokenizer_of_bytes() -> tokenizers.Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def test_a_tokenizer_with_a_pattern_of_its_own_gives_the_same_in_its_process(tmp_path: Path) -> None:
    plain, odd = tokenizer_of_bytes(), tokenizer_of_bytes()
    odd.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[a-z]+"), "isolated"), odd.pre_tokenizer]
    )
    assert (is_bounded(plain), is_bounded(odd)) == (True, False)
    write(tmp_path, odd)
    tokenizer = tokenizer_from_dir(tmp_path)
    text = "naïve 世界 🦙"
    assert tokenizer.encode(text) == plain.encode(text).ids
    assert tokenizer.decode(tokenizer.encode(text)) == text


HOSTILE = {
    "34 replacements": normalizers.Sequence([normalizers.Replace("a", "aa")] * 34),
    "a pattern that backtracks": normalizers.Replace(Regex("(a|aa)+$"), ""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_refused(tmp_path: Path, name: str) -> None:
    tokenizer = tokenizer_of_bytes()
    tokenizer.normalizer = HOSTILE[name]
    write(tmp_path, tokenizer)
    loaded = tokenizer_from_dir(tmp_path)
    with pytest.raises(CheckpointError, match="cannot read this text"):
        loaded.encode("a" * 60_000 + "b")
