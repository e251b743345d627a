"""Trains a small R1-ASA on bytes, so that a loss of precision shows in the perplexity of a real model.

Next-byte prediction on one CPU thread: AdamW, a cosine schedule, a load-balancing loss, and sequences that
get longer, 128, 256 and then 512 bytes. What precision work measures on stays unseen: no document that
`r1trt/data/` quotes is read. The text, 45 : 25 : 30 by bytes:

- prose: Jane Austen's novels without *Persuasion* (public domain; Project Gutenberg's texts as in the Debian
  package r-cran-janeaustenr, itself MIT);
- manuals: tutorial, HOWTOs, FAQ, language and library reference of Python 3.11 (PSF-2.0; the Debian package
  python3.11-doc);
- code: the standard library of the running Python, without its tests (PSF-2.0).

Where the Debian packages are not installed, they can be unpacked and named with --root:

    apt-get download r-cran-janeaustenr python3.11-doc
    for package in *.deb; do dpkg -x $package build/texts; done
    python scripts/train_r1_asa.py --root build/texts --minutes 45 -o build/r1-asa-bytes

With --steps alone the result depends on seed, text and library versions only; --minutes shortens the schedule
to what fits.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from fast_attention import block_attention, causal_attention
from machine import machine, tree_bytes
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional as F
from training_loop import descend, optimizer_of, rate_at, scale_fresh_weights

from r1trt.artifacts.atomic import atomic_directory
from r1trt.errors import R1TrtError, UnavailableError
from r1trt.families import model_config_from_dict
from r1trt.model import R1AsaForCausalLM, Routing, load_checkpoint, save_checkpoint
from r1trt.model.attention import HybridLengthAttention, lam_after_skip
from r1trt.model.moe import Router

BOS, EOS = 256, 257  # after the bytes, whose ids are their values
CONFIG: dict[str, Any] = {
    "architectures": ["R1AsaForCausalLM"], "model_type": "r1_asa", "bos_token_id": BOS, "eos_token_id": EOS,
    "vocab_size": 272,  # 258 tokens, padded: FP8 wants multiples of 16
    "hidden_size": 256, "num_hidden_layers": 4, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "hla_block_size": 32,
    "num_experts": 8, "moe_intermediate_size": 64, "num_shared_experts": 1, "shared_intermediate_size": 64,
    "scoring": "softmax", "top_k": 2, "adaptive_threshold": 0.9,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "rope_temperature_alpha": 0.1,
    "original_max_position_embeddings": 256, "max_position_embeddings": 512,
}  # fmt: skip
NOVELS = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
MANUALS = "usr/share/doc/python3.11/html/_sources"
CHAPTERS = ("tutorial", "howto", "faq", "reference", "library")
# What r1trt/data/ quotes, and manuals that repeat its code's docstrings.
UNSEEN = {"heapq", "textwrap", "functional", "sorting", "sockets"}
NOT_CODE = {"test", "tests", "idle_test", "site-packages", "lib2to3", "encodings", "pydoc_data"}
SHARES = {"prose": 0.45, "manuals": 0.25, "code": 0.30}
HELD_OUT_BYTES = 32 * 1024  # of each part
LENGTHS = ((0.5, 128), (0.7, 256), (1.0, 512))  # until which part of the schedule, bytes of a sequence
BALANCE = 0.01
PROGRESS_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run is asked for.

    Attributes:
        output: Checkpoint directory to make; the state lies beside it, as NAME.state.pt.
        root: Where the Debian packages are installed.
        steps: Most steps.
        minutes: Most minutes of training, earlier runs that are resumed included; infinite for no limit.
        batch: Bytes of a step.
        learning_rate: The highest.
        seed: Of weights and batches.
        save_every: Steps between two states.
        resume: Continue from the state.
    """

    output: Path
    root: Path
    steps: int
    minutes: float
    batch: int
    learning_rate: float
    seed: int
    save_every: int
    resume: bool

    @property
    def state(self) -> Path:
        """The file that a later run resumes from."""
        return self.output.with_name(self.output.name + ".state.pt")


class TrainedAttention(HybridLengthAttention):
    """The same attention for whole sequences from position 0, without masks over all keys."""

    def _mixed(self, x_BSD: Tensor, q: Tensor, keys: Tensor, values: Tensor, position_BS: Tensor) -> Tensor:
        assert self.lam_gate is not None
        q_BHSd = q.transpose(1, 2)
        block = block_attention(q_BHSd, keys, values, self.hla)
        lam = lam_after_skip(self.lam_gate(x_BSD), self.hla.lam_skip).transpose(1, 2)[..., None]
        mixed: Tensor = lam * causal_attention(q_BHSd, keys, values) + (1 - lam) * block
        return mixed.transpose(1, 2)


@dataclass
class Balance:
    """Collects, from hooks on the routers, what the layers of a forward pass decided.

    Attributes:
        losses: Experts times the sum of share of candidates times mean probability; 1 at best.
        kept: Mean experts of a token.
        busiest: Share of the busiest expert; 1 / experts at best.
    """

    losses: list[Tensor] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    busiest: list[float] = field(default_factory=list)

    def __call__(self, module: Router, args: tuple[Tensor], routing: Routing) -> None:
        """Takes what a router decided."""
        probability_E = F.linear(args[0], module.weight).softmax(-1).mean(0)
        share_E = torch.bincount(routing.experts_TK.flatten(), minlength=len(probability_E)).float()
        share_E = share_E / share_E.sum()
        self.losses.append(len(share_E) * (share_E * probability_E).sum())
        self.kept.append(float(routing.kept_TK.sum(-1).float().mean()))
        self.busiest.append(float(share_E.max()))


def novels(root: Path) -> Iterator[str]:
    """Yields the novels, out of R's database of lazily loaded objects: compressed vectors of lines."""
    rest = (root / NOVELS).read_bytes()
    while rest:
        stream = zlib.decompressobj()
        vector = stream.decompress(rest[4:])  # behind the length
        rest = stream.unused_data
        text = "\n".join(_lines(vector))
        if not text.startswith("Persuasion"):
            yield text


def _lines(vector: bytes) -> Iterator[str]:
    """Reads a serialized character vector: a header, the encoding's name, type and length, and strings."""
    start = 18 + int.from_bytes(vector[14:18], "big")
    place = start + 8
    for _ in range(int.from_bytes(vector[start + 4 : place], "big")):
        length = int.from_bytes(vector[place + 4 : place + 8], "big")
        yield vector[place + 8 : place + 8 + length].decode()
        place += 8 + length


def manuals(root: Path) -> Iterator[str]:
    """Yields the pages of Python's documentation."""
    for chapter in CHAPTERS:
        for path in sorted((root / MANUALS / chapter).rglob("*.rst.txt")):
            if path.name.split(".")[0] not in UNSEEN:
                yield path.read_text(encoding="utf-8")


def modules() -> Iterator[str]:
    """Yields the modules of the standard library."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if path.stem not in UNSEEN and NOT_CODE.isdisjoint(path.relative_to(library).parts):
            yield path.read_text(encoding="utf-8", errors="replace")


def corpus(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Reads each part, as token ids to train on and held-out ones.

    Raises:
        UnavailableError: A Debian package is not there.
    """
    missing = [str(root / name) for name in (NOVELS, MANUALS) if not (root / name).exists()]
    if missing:
        fix = "apt-get install r-cran-janeaustenr python3.11-doc, or see --root"
        raise UnavailableError("The texts are not installed.", found=f"no {', '.join(missing)}", fix=fix)
    texts = {"prose": list(novels(root)), "manuals": list(manuals(root)), "code": list(modules())}
    return {part: split_documents(documents) for part, documents in texts.items()}


def split_documents(documents: list[str]) -> tuple[Tensor, Tensor]:
    """Holds out every 40th document, or the end of the last one of few; cuts that to HELD_OUT_BYTES."""
    encoded = [torch.tensor([BOS, *text.encode(), EOS], dtype=torch.int16) for text in documents]
    if len(encoded) < 40:
        return (whole := torch.cat(encoded))[:-HELD_OUT_BYTES], whole[-HELD_OUT_BYTES:]
    rest = [ids for i, ids in enumerate(encoded) if i % 40]
    return torch.cat(rest), torch.cat(encoded[::40])[:HELD_OUT_BYTES]


def batch_of(texts: list[Tensor], step: int, length: int, options: Options) -> Tensor:
    """Draws a step's sequences `[B, length + 1]`; depends on seed and step alone, so that runs resume."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    shares = torch.tensor([SHARES[part] for part in SHARES])
    rows = max(1, options.batch // length)
    picked = torch.multinomial(shares, rows, replacement=True, generator=generator)
    places = torch.rand(rows, generator=generator, dtype=torch.float64)
    starts = [int(place * (len(texts[i]) - length)) for i, place in zip(picked, places, strict=True)]
    pieces = [texts[i][start : start + length + 1] for i, start in zip(picked, starts, strict=True)]
    return torch.stack(pieces).long()


def make_module(seed: int) -> R1AsaForCausalLM:
    """Makes the module with fresh weights, and attention that trains faster."""
    torch.manual_seed(seed)
    config = model_config_from_dict(CONFIG, where=Path("config.json"))
    module = R1AsaForCausalLM(config)
    reference = module(torch.arange(128)[None])
    weights = module.state_dict()
    for index, layer in enumerate(module.model.layers):
        layer.self_attn = TrainedAttention(config, index)
    module.load_state_dict(weights)
    torch.testing.assert_close(module(torch.arange(128)[None]), reference, atol=1e-3, rtol=1e-3)
    scale_fresh_weights(module, config.num_layers, config.hidden_size)
    return module


class Training:
    """A module, its optimizer, and how far they are.

    Args:
        options: The run.
        texts: Token ids of each part, in the order of SHARES.
    """

    def __init__(self, options: Options, texts: list[Tensor]) -> None:
        self.options, self.texts = options, texts
        self.module = make_module(options.seed)
        self.optimizer = optimizer_of(self.module)
        self.step, self.seconds, self.balance = 0, 0.0, Balance()
        if options.resume:
            state = torch.load(options.state, weights_only=True)
            self.module.load_state_dict(state["module"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Writes the state, complete or not at all."""
        part = self.options.state.with_suffix(".part")
        part.parent.mkdir(parents=True, exist_ok=True)
        state = {name: getattr(self, name).state_dict() for name in ("module", "optimizer")}
        torch.save({**state, "step": self.step, "seconds": self.seconds}, part)
        part.replace(self.options.state)

    def done(self) -> float:
        """Returns how much of the schedule is over, by steps or by time, 0 to 1."""
        by_time = self.seconds / (60 * self.options.minutes)
        return min(1.0, max(self.step / self.options.steps, by_time))

    def learning_rate(self) -> float:
        """Returns the rate of the next step: linear at first, then a cosine down to 0."""
        return rate_at(self.options.learning_rate, self.step, self.done())

    def advance(self) -> float:
        """Takes one step; returns its loss in bits per byte."""
        begin = time.perf_counter()
        length = next(length for until, length in LENGTHS if self.done() <= until)
        ids, self.balance = batch_of(self.texts, self.step, length, self.options), Balance()
        routers = [module for module in self.module.modules() if isinstance(module, Router)]
        hooks = [router.register_forward_hook(self.balance) for router in routers]
        loss = F.cross_entropy(self.module(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        for hook in hooks:
            hook.remove()
        balanced = loss + BALANCE * torch.stack(self.balance.losses).sum()
        descend(balanced, self.module, self.optimizer, self.learning_rate())
        self.step += 1
        self.seconds += time.perf_counter() - begin
        return float(loss.detach()) / math.log(2)

    def run(self) -> None:
        """Trains to the end of the schedule, saving now and then."""
        recent: list[float] = []
        while self.done() < 1:
            recent = [*recent[1 - PROGRESS_EVERY :], self.advance()]
            if self.step % PROGRESS_EVERY == 0:
                at = f"step {self.step}  {self.seconds:.0f} s  rate {self.learning_rate():.2e}"
                routing = f"{mean(self.balance.kept):.2f} experts, busiest {max(self.balance.busiest):.2f}"
                print(f"{at}  {mean(recent):.3f} bits per byte  {routing}", flush=True)
            if self.step % self.options.save_every == 0:
                self.save()
        self.save()


def write_checkpoint(module: R1AsaForCausalLM, directory: Path) -> None:
    """Writes the checkpoint in BF16, and a tokenizer whose ids are the bytes' values."""
    byte_of = {character: byte for byte, character in enumerate(_characters())}
    tokenizer = Tokenizer(models.BPE(byte_of, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<s>", "</s>")])
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    with atomic_directory(directory) as target:
        save_checkpoint(module, target, CONFIG, dtype=torch.bfloat16)
        tokenizer.save(str(target / "tokenizer.json"))
        (target / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def _characters() -> list[str]:
    """The character of each byte in ByteLevel's alphabet: itself if printable, else one from U+0100 on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


@torch.no_grad()
def bits_per_byte(module: R1AsaForCausalLM, ids: Tensor, length: int = 512) -> float:
    """Mean over windows of `length` tokens, each read from an empty cache."""
    count = (len(ids) - 1) // length * length
    inputs, targets = (t[:count].long().view(-1, length) for t in (ids, ids[1:]))
    losses = (F.cross_entropy(module(i[None])[0], t).item() for i, t in zip(inputs, targets, strict=True))
    return mean(losses) / math.log(2)


def train(options: Options) -> dict[str, Any]:
    """Trains, writes the checkpoint, and measures what was written; returns the figures."""
    parts = corpus(options.root)
    training = Training(options, [parts[part][0] for part in SHARES])
    training.run()
    write_checkpoint(training.module, options.output)
    module = load_checkpoint(options.output, torch.float32)
    return {
        "machine": machine(),
        "parameters": sum(p.numel() for p in module.parameters()),
        "bytes": tree_bytes(options.output),
        "steps": training.step,
        "seconds": round(training.seconds),
        "text_bytes": {part: len(parts[part][0]) for part in SHARES},
        "bits_per_byte": {part: round(bits_per_byte(module, parts[part][1]), 4) for part in SHARES},
    }


def options_from_arguments() -> Options:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("-o", "--output", type=Path, required=True, help="checkpoint directory to make")
    parser.add_argument("--root", type=Path, default=Path("/"), help="where the Debian packages are")
    parser.add_argument("--steps", type=int, default=6000, help="most steps")
    parser.add_argument("--minutes", type=float, default=math.inf, help="most minutes, resumed ones included")
    parser.add_argument("--batch", type=int, default=2048, help="bytes of a step")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="the highest of the schedule")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=250, help="steps between two states")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--resume", action="store_true", help="go on from OUTPUT.state.pt")
    arguments = vars(parser.parse_args())
    torch.set_num_threads(arguments.pop("threads"))
    return Options(**arguments)


def main() -> int:
    """Trains and prints the figures; returns the exit code."""
    try:
        print(json.dumps(train(options_from_arguments()), indent=2))
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
