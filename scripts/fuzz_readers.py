"""What the fuzzer feeds: each reader of what comes from elsewhere, its file, and how that is mutated."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnx
import yaml
from fuzz_mutations import (
    Mutation,
    bytes_mutated,
    json_mutation,
    lines_mutated,
    protobuf_mutated,
    safetensors_mutated,
    template_mutated,
    text_mutated,
    yaml_mutated,
)

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there 🦙"}]
TEXTS = ("Hello there", "naïve 世界 🦙 " * 20, "a" * 2000)


@dataclass(frozen=True, kw_only=True)
class Reader:
    """One kind of file.

    Attributes:
        name: As the table calls it.
        directory: Of the corpus; an input is a copy of it with one file mutated.
        file: That file, relative to the directory.
        mutate: How.
        parses: Whether the file's own parser, apart from the product, takes it.
        read: Gives the input to the product; called with its directory and a number from 0 to 11 for what
            is too slow to be done with every input.
        is_file: The product reads the file itself, and not what the fuzzer makes of it.
    """

    name: str
    directory: str
    file: str
    mutate: Mutation
    parses: Callable[[bytes], Any]
    read: Callable[[Path, int], Any]
    is_file: bool = True


def command(*arguments: object) -> None:
    """Runs a command of r1trt as the command line does, its errors printed; raises what it does."""
    from r1trt.cli import cli
    from r1trt.cli.output import print_error
    from r1trt.errors import R1TrtError

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            cli.main(list(map(str, arguments)), standalone_mode=False)
        except R1TrtError as error:
            print_error(error, as_json=True)
            print_error(error, as_json=False)
            raise


def checkpoint(path: Path, number: int) -> None:
    """Exports a checkpoint, or says what it is."""
    if number % 3 == 0:
        command("export", path, "-o", path / "out", "--max-seq-len", 16)
    else:
        command("inspect" if number % 3 == 1 else "estimate", path)


def tokenizer(path: Path, _number: int) -> None:
    """Loads a directory's tokenizer, and uses it."""
    from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

    loaded = tokenizer_from_dir(path)
    for text in TEXTS:
        loaded.decode(loaded.encode(text))
    if loaded.chat_template is not None:
        loaded.encode_chat(MESSAGES)


def artifact(path: Path, number: int) -> None:
    """Inspects, runs, validates or packs an artifact."""
    if number % 3 == 0:
        command("inspect", "--json", path)
    elif number % 12 == 7:
        command("validate", path, "--max-tokens", 16)
    elif number % 12 == 1:
        command("triton", path, "-o", path / "out")
    else:
        command("generate", path, "--prompt", "Hello", "--max-new-tokens", 2)


def export(path: Path, number: int) -> None:
    """Builds of an export, or does what can be done with any artifact."""
    if number % 12 == 1:
        command("build", path, "--arch", "cpu", "-o", path / "out", "--max-input-len", 8)
    else:
        artifact(path, 2 * number)


def inspected(file: str) -> Callable[[Path, int], None]:
    """`r1trt inspect` of a file in the directory, or of the directory."""
    return lambda path, _number: command("inspect", path / file)


def plan(path: Path, number: int) -> None:
    """Builds by a plan, or inspects it."""
    if number % 12 == 1:
        options = ("--plan", path / "precision.yaml", "-o", path / "out", "--max-input-len", 8)
        command("build", path / "export", "--arch", "cpu", *options)
    else:
        command("inspect", path / "precision.yaml")


def scales(path: Path, _number: int) -> None:
    """Reads lists of scales, of the hash that the file has."""
    from r1trt.errors import PlanError
    from r1trt.files import bytes_of_file
    from r1trt.precision.scales_file import read_scales

    file = path / "precision.scales.safetensors"
    known = hashlib.sha256(bytes_of_file(file, limit=1 << 20)).hexdigest()
    try:
        read_scales(path, file.name, known)
    except ValueError as error:  # which the reader of plans gathers
        raise PlanError("The file of scales is refused.", found=error) from error


def documents(file: str) -> Callable[[Path, int], None]:
    """Reads documents, and makes tokens of them."""

    def read(path: Path, _number: int) -> None:
        from r1trt.runtime.prompts import documents_from_file, encoded_documents

        encoded_documents(documents_from_file(path / file), _tokenizer_of_corpus(path), vocab_size=300)

    return read


def profile_input(path: Path, _number: int) -> None:
    """Reads what is to be profiled, and makes tokens of its prompts."""
    from r1trt.profile.request_file import request_file

    request_file(path / "profile.json").requests((path / "export").resolve(), vocab_size=300)


def prompt(path: Path, number: int) -> None:
    """Makes tokens of a text, which may be half a character."""
    data = (path / "text.txt").read_bytes()
    if number % 2:
        text = data.decode("utf-8", "surrogateescape")
    else:
        text = data[: len(data) & ~1].decode("utf-16-le", "surrogatepass")
    loaded = _tokenizer_of_corpus(path)
    loaded.encode(text)
    loaded.encode_chat([{"role": text[:9], "content": text}])


def request(file: str) -> Callable[[Path, int], None]:
    """Checks a request's tensors, and makes tokens of its prompt."""

    def read(path: Path, _number: int) -> None:
        from r1trt.frontends.triton.tensors import values_from_tensors
        from r1trt.serving.call import call_from_values

        document = json.loads((path / file).read_bytes())
        entries = dict(document) if isinstance(document, dict) else {}
        parameters = entries.pop("parameters", {})
        arrays = {name: _array(entry, name) for name, entry in entries.items()}
        values = values_from_tensors(
            {name: array for name, array in arrays.items() if array is not None},
            parameters if isinstance(parameters, dict) else {},
        )
        call_from_values(values, _tokenizer_of_corpus(path), 32)

    return read


_TYPES = {
    **dict.fromkeys(("text_input", "messages", "stop_words", "thinking"), "BYTES"),
    **{"chat": "bool", "max_tokens": "int32", "top_k": "int64", "seed": "uint64"},
    **dict.fromkeys(("temperature", "top_p"), "float32"),
}


def _array(entry: Any, name: str) -> Any:
    """A tensor as Triton hands it over; None for what Triton itself would refuse."""
    try:
        kind, shape, data = entry
        if kind != _TYPES[name]:
            return None
        flat = _texts(data) if kind == "BYTES" else np.array(data, kind)
        return flat.reshape(shape)
    except (ValueError, TypeError, OverflowError, AttributeError, KeyError):
        return None


def _texts(data: Any) -> Any:
    texts = np.empty(len(data), np.object_)
    for index, text in enumerate(data):
        texts[index] = text.encode("utf-8", "surrogatepass")
    return texts


_TOKENIZERS: dict[Path, Any] = {}


def _tokenizer_of_corpus(path: Path) -> Any:
    """The corpus's own tokenizer, loaded once; `path` has a link to the corpus."""
    from r1trt.tokenizer.text_tokenizer import tokenizer_from_dir

    corpus = (path / "export").resolve()
    if corpus not in _TOKENIZERS:
        _TOKENIZERS[corpus] = tokenizer_from_dir(corpus)
    return _TOKENIZERS[corpus]


def library(path: Path, _number: int) -> None:
    """Reads a plugin library's description."""
    from r1trt.plugin_tools.library import library_from_path

    library_from_path(path / "libr1trt_plugins.so")


def profiles(path: Path, _number: int) -> None:
    """Reads a build's profiles."""
    from r1trt.artifacts.profiles import load_profiles

    load_profiles(path / "profiles.json")


def layers(path: Path, _number: int) -> None:
    """Reads a build's layers."""
    from r1trt.artifacts.layers import LayerReport

    LayerReport.read(path / "layers.json")


def receipt(path: Path, _number: int) -> None:
    """Reads a receipt of the plugins' checks."""
    from r1trt.plugin_checks.receipt import read_receipt

    read_receipt(path / "receipt.json")


def served_model(path: Path, _number: int) -> None:
    """Checks a served model's configuration."""
    from r1trt.package.model_check import check_model_directory

    # A model's directory has the name of the model.
    named = path.parent / "export"
    named.symlink_to(path)
    check_model_directory(named)


def parses_json(data: bytes) -> bool:
    """Whether it is a document."""
    return isinstance(json.loads(data), dict | list)


def parses_header(data: bytes) -> bool:
    """Whether a header of JSON is there."""
    length = int.from_bytes(data[:8], "little")
    return length <= len(data) - 8 and parses_json(data[8 : 8 + length])


def parses_library(data: bytes) -> bool:
    """Whether a description of JSON is there."""
    return parses_json(data.partition(b"R1TRT_PLUGINS_INFO:")[2].partition(b"\0")[0])


def parses_template(data: bytes) -> bool:
    """Whether Jinja takes it."""
    jinja2.Environment(extensions=["jinja2.ext.loopcontrols"]).parse(data.decode())
    return True


def parses_graph(data: bytes) -> bool:
    """Whether protobuf takes it, and there is a graph."""
    return onnx.ModelProto.FromString(data).HasField("graph")


def parses_yaml(data: bytes) -> bool:
    """Whether it is a mapping."""
    return isinstance(yaml.safe_load(data.decode()), dict)


def parses_pbtxt(data: bytes) -> bool:
    """Whether it is text in braces."""
    return "{" in data.decode()


def parses_text(data: bytes) -> bool:
    """Whether it is text."""
    return bool(data.decode())


def _library_mutated(data: bytes, random: Any) -> bytes:
    before, marker, rest = data.partition(b"R1TRT_PLUGINS_INFO:")
    info, zero, after = rest.partition(b"\0")
    if random.random() < 0.15:
        return bytes_mutated(data, random)
    return before + marker + json_mutation()(info, random) + zero + after


# Parts of tokenizers that others have, and that take time or memory.
_REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
_PARTS = (
    {"type": "Sequence", "normalizers": [_REPLACE] * 34},
    {"type": "Replace", "pattern": {"Regex": "(a|aa)+$"}, "content": "b"},
    {"type": "Split", "pattern": {"Regex": "(x+x+)+y|a*a*a*a*c"}, "behavior": "Isolated", "invert": False},
    *({"type": "NFKD"}, {"type": "Lowercase"}, {"type": "Fuse"}),
    {"type": "Digits", "individual_digits": True},
    {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
    {"type": "WordPiece", "unk_token": "a", "max_input_chars_per_word": 10**9},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"},
    {"type": "Strip", "content": "a", "start": 1 << 40, "stop": 1},
    {"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}},
)  # fmt: skip

_JSON, _VALUES = json_mutation(), json_mutation(as_document=True)
_GRAPH = protobuf_mutated(onnx.ModelProto)


def _reader(name: str, directory: str, file: str, mutate: Mutation, parses: Any, read: Any) -> Reader:
    is_file = not name.startswith(("request", "prompt")) or name.endswith(".jsonl")
    return Reader(
        name=name, directory=directory, file=file, mutate=mutate, parses=parses, read=read, is_file=is_file
    )


READERS = (
    _reader("config.json", "checkpoint", "config.json", _JSON, parses_json, checkpoint),
    _reader("index", "sharded", "model.safetensors.index.json", _JSON, parses_json, checkpoint),
    _reader("safetensors", "checkpoint", "model.safetensors", safetensors_mutated, parses_header, checkpoint),
    _reader("generation_config", "checkpoint", "generation_config.json", _JSON, parses_json, tokenizer),
    _reader("tokenizer_config", "checkpoint", "tokenizer_config.json", _JSON, parses_json, tokenizer),
    _reader("special_tokens", "checkpoint", "special_tokens_map.json", _JSON, parses_json, tokenizer),
    _reader("tokenizer.json", "checkpoint", "tokenizer.json", json_mutation(*_PARTS), parses_json, tokenizer),
    _reader(
        "chat template", "templated", "chat_template.jinja", template_mutated, parses_template, tokenizer
    ),
    _reader("export's manifest", "export", "manifest.json", _JSON, parses_json, export),
    _reader("model.onnx", "export", "model.onnx", _GRAPH, parses_graph, export),
    _reader("build's manifest", "build", "manifest.json", _JSON, parses_json, artifact),
    _reader("cpu.onnx", "build", "cpu.onnx", _GRAPH, parses_graph, artifact),
    _reader("validation.json", "build", "validation.json", _JSON, parses_json, inspected("")),
    _reader("profiles.json", "build", "profiles.json", _JSON, parses_json, profiles),
    _reader("precision plan", "planned", "precision.yaml", yaml_mutated, parses_yaml, plan),
    _reader("repository's manifest", "repository", "manifest.json", _JSON, parses_json, inspected("")),
    _reader("config.pbtxt", "served", "config.pbtxt", text_mutated, parses_pbtxt, served_model),
    _reader("layers.json", "single", "layers.json", _JSON, parses_json, layers),
    _reader("scales", "single", "precision.scales.safetensors", safetensors_mutated, parses_header, scales),
    _reader("plugin library", "single", "libr1trt_plugins.so", _library_mutated, parses_library, library),
    _reader("receipt", "single", "receipt.json", _JSON, parses_json, receipt),
    _reader(
        "prompts.jsonl", "single", "prompts.jsonl", lines_mutated, parses_text, documents("prompts.jsonl")
    ),
    _reader("text.txt", "single", "text.txt", text_mutated, parses_text, documents("text.txt")),
    _reader("profile's input", "single", "profile.json", _JSON, parses_json, profile_input),
    _reader("prompt", "single", "text.txt", text_mutated, parses_text, prompt),
    _reader("request", "single", "request.json", _VALUES, parses_json, request("request.json")),
    _reader("request's messages", "single", "messages.json", _VALUES, parses_json, request("messages.json")),
)
