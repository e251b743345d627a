"""Mutations of valid files: of their bytes, and of the structure that their parsers see."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any

import yaml

Mutation = Callable[[bytes, Random], bytes]

# What a hand, a hostile program or a damaged disk puts into a value's place.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 7, 64, 255, 1 << 20, 1 << 31, (1 << 31) - 1, 1 << 63, 1 << 70),
    -(1 << 70),
    *(0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), 10**400),
    *("", "x", " ", "a\0b", "\ud800", "\n", "..", ".", "/", "/etc/passwd", "../../etc/passwd", "x" * 300),
    *("auto", "fp8", "cpu", "SM89", "default", "llama3", "yarn", "model.onnx", "\u200b", "9" * 5000),
    *([], [1], [None], ["x"], [[]], [{}], {}, {"file": 5}, {"": ""}, [0] * 2000, {"x": {"x": {"x": {}}}}),
)  # fmt: skip


def bytes_mutated(data: bytes, random: Random) -> bytes:
    """Flips, cuts, repeats, inserts or overwrites bytes in one to four places."""
    content = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        _mutate_bytes(content, random)
    return bytes(content)


def _mutate_bytes(content: bytearray, random: Random) -> None:
    place = random.randrange(len(content) + 1)
    length = random.choice((1, 2, 8, 64, 1000))
    match random.randrange(6):
        case 0 if place < len(content):
            content[place] ^= 1 << random.randrange(8)
        case 1:
            del content[place:]
        case 2:
            content[place:place] = content[place : place + length] * random.choice((1, 2, 50))
        case 3:
            content[place:place] = random.randbytes(length)
        case 4:
            del content[place : place + length]
        case _:
            content[place : place + 1] = random.choice(
                (b"\0", b"\xff", b"{", b"[", b'"', b"\xed\xa0\x80", b"-")
            )


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values inside of a document."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(item, dict | list):
            yield from places(item, (*at, key))


def document_mutated(document: Any, random: Random, values: tuple[Any, ...] = VALUES) -> Any:
    """Replaces, removes, adds, nests, exchanges or shifts one to three values of a document."""
    document = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 2, 3))):
        found = list(places(document))
        if not found:
            return random.choice(values)
        *parents, key = random.choice(found)
        holder = document
        for parent in parents:
            holder = holder[parent]
        _mutate_place(document, holder, key, random, values)
    return document


def _mutate_place(document: Any, holder: Any, key: Any, random: Random, values: tuple[Any, ...]) -> None:
    value = holder[key]
    match random.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[random.choice(("", "x", "\0", "type", str(key) + "2"))] = copy.deepcopy(value)
        case 1:
            holder.insert(key, copy.deepcopy(value))
        case 2:
            holder[key] = random.choice(([value], {"x": value}, [value, value], {str(key): value}))
        case 3:
            holder[key] = copy.deepcopy(_any_of(document, random))
        case 4 if isinstance(value, int | float) and not isinstance(value, bool):
            holder[key] = random.choice(
                (
                    value + 1,
                    value - 1,
                    -value,
                    value * 1000,
                    value / 2 if abs(value) < 1e300 else 0,
                    str(value),
                )
            )
        case 4 if isinstance(value, str) and value:
            cut = random.randrange(len(value))
            inserted = random.choice(("", "\0", "/", "..", "\ud800", "\U0001f999", "{", "%", "x" * 1000))
            holder[key] = value[:cut] + inserted + value[cut + random.randrange(2) :]
        case _:
            holder[key] = copy.deepcopy(random.choice(values))


def _any_of(document: Any, random: Random) -> Any:
    value = document
    for key in random.choice(list(places(document))):
        value = value[key]
    return value


def json_mutation(*values: Any, as_document: bool = False) -> Mutation:
    """Edits JSON, as a document alone or some times as text or bytes; `values` are further ones to put in."""

    def mutated(data: bytes, random: Random) -> bytes:
        if not as_document and random.random() < 0.12:
            return bytes_mutated(data, random)
        text = json.dumps(document_mutated(json.loads(data), random, VALUES + values))
        if not as_document and random.random() < 0.08:  # a key twice: what a document in memory cannot hold
            keys = list(re.finditer(r'"(?:[^"\\]|\\.)*": ', text))
            if keys:
                key = random.choice(keys)
                text = (
                    f"{text[: key.start()]}{key[0]}{json.dumps(random.choice(VALUES))}, {text[key.start() :]}"
                )
        return text.encode()

    return mutated


def safetensors_mutated(data: bytes, random: Random) -> bytes:
    """Edits the header of a safetensors file; the length in front of it follows, mostly."""
    length = int.from_bytes(data[:8], "little")
    if random.random() < 0.15:
        return bytes_mutated(data, random)
    header = json_mutation()(data[8 : 8 + length], random)
    said = len(header) if random.random() < 0.95 else random.choice((0, 1, len(header) - 1, 1 << 20, 1 << 62))
    return said.to_bytes(8, "little") + header + data[8 + length :]


def yaml_mutated(data: bytes, random: Random) -> bytes:
    """Edits YAML as a document, by lines, or as bytes."""
    kind = random.random()
    if kind < 0.1:
        return bytes_mutated(data, random)
    if kind < 0.3:
        return b"\n".join(
            _edited(data.split(b"\n"), (b"a: &b [*b]", b"? [x]", b"- 1", b"x: !!set {}"), random)
        )
    document = document_mutated(yaml.safe_load(data), random)
    try:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")
    except (ValueError, yaml.YAMLError):
        return bytes_mutated(data, random)


def lines_mutated(data: bytes, random: Random) -> bytes:
    """Edits lines of JSON, one of them as a document."""
    if random.random() < 0.3:
        return bytes_mutated(data, random)
    lines = data.split(b"\n")
    chosen = random.randrange(len(lines))
    if lines[chosen].startswith(b"{"):
        lines[chosen] = json_mutation()(lines[chosen], random)
    return b"\n".join(_edited(lines, (b"", b"[]", b"{}", b"null", b"{"), random))


def text_mutated(data: bytes, random: Random) -> bytes:
    """Edits words and signs of a text, or its bytes."""
    if random.random() < 0.5:
        return bytes_mutated(data, random)
    parts = re.findall(r"\w+|\W", data.decode())
    inserted = ("\0", "9" * 400, "-1", '"', "{ }", "\U0001f999", "\u0300" * 50, "a" * 100_000, " ", "\x7f")
    return "".join(_edited(parts, inserted, random)).encode()


def _edited(
    parts: list[Any], inserted: tuple[Any, ...], random: Random, *, removes: bool = True
) -> list[Any]:
    """Removes, repeats, exchanges and inserts parts, in one to three places."""
    for _ in range(random.choice((1, 1, 2, 3))):
        place, other = random.randrange(len(parts) + 1), random.randrange(len(parts) + 1)
        match random.randrange(4) if removes else 3:
            case 0:
                del parts[place : place + 1]
            case 1:
                parts[place:place] = parts[other : other + random.choice((1, 3))] * random.choice((1, 1, 30))
            case 2 if place < len(parts) and other < len(parts):
                parts[place], parts[other] = parts[other], parts[place]
            case _:
                parts.insert(place, random.choice(inserted))
    return parts


_TOKENS = re.compile(r"\{%-?|-?%\}|\{\{-?|-?\}\}|'[^']*'|\w+|\s+|.", re.DOTALL)
_STATEMENTS = tuple(
    r"""
{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}
{{ 'a' * 10**8 }}
{{ 'x'|center(10**9) }}
{{ messages|tojson(indent=10**8) }}
{{ '%999999999d' % 1 }}
{{ 7 ** 9 ** 9 }}
{{ 1 // 0 }}
{% set n = namespace(x='aa') %}
{% set ns.system = ns.system ~ ns.system %}
{{ loop }}
{% for m in messages %}{{ m.content|replace('', 'x' * 99999) }}{% endfor %}
{{ messages.append(1) }}
{{ strftime_now('%' * 99999) }}
{{ raise_exception('no') }}
{{ cycler() }}
{{ '\ud800' }}
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{{ range(10**5)|list|sort|length }}
{{ x.y }}
{{ lipsum() }}
{{ messages[0].content.__class__ }}
{{ dict(a=1)|dictsort }}
{{ 'a'|truncate(-1) }}
{{ (1e308 * 10)|int }}
{{ 'a b'.split() | batch(0) | list }}
{{ [1, [2]]|sum }}
{% include 'x' %}
{% extends 'x' %}
{{ messages }}
{% set messages = 5 %}
{{ 'x'|wordwrap(0) }}
{{ 5|round(10**6) }}
{{ joiner }}
{{ namespace }}
{{ self }}
""".strip().split("\n")
)
_GRAMMAR = (
    "(" * 300,
    *r"""
{% for i in range(99999) %}
{% endfor %}
{% if messages %}
{% endif %}
{% else %}
{{
}}
{% set x = 'a' * 10**9 %}
{{ 'a' * 10**8 }}
{{ '%999999999d' % 1 }}
{{ 7 ** 9 ** 9 }}
{{ 1 // 0 }}
{{ x|center(10**9) }}
|replace('', 'x' * 99999)
|tojson(indent=10**8)
|int
|list
|join
|sort
{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}
{% include 'x' %}
{% extends 'x' %}
{% raw %}
loop
{% set n = namespace(x='aa') %}
{% set n.x = n.x ~ n.x %}
messages
[
]
(
)
*
~
**
|length
|batch(0)
|truncate(-1)
|round(400)
|random
.__class__
.split()
['x']
{{ strftime_now('%' * 99999) }}
{{ raise_exception('no') }}
{{ cycler() }}
'\ud800'
|format(1)
""".strip().split("\n"),
)


def template_mutated(data: bytes, random: Random) -> bytes:
    """Edits the tokens of a template; parts of a grammar are put in."""
    if random.random() < 0.08:
        return bytes_mutated(data, random)
    text = data.decode()
    if random.random() < 0.5:  # whole statements between others
        parts = re.split(r"(?<=\})(?=\{)|(?<=\n)", text)
        return "".join(_edited(parts, _STATEMENTS, random, removes=False)).encode()
    return "".join(_edited(_TOKENS.findall(text), _GRAMMAR, random)).encode("utf-8", "surrogatepass")


def protobuf_mutated(make: Callable[[], Any]) -> Mutation:
    """Edits fields of a protobuf message of a kind, some times bytes of it."""

    def mutated(data: bytes, random: Random) -> bytes:
        if random.random() < 0.25:
            return bytes_mutated(data, random)
        message = make()
        message.ParseFromString(data)
        for _ in range(random.choice((1, 1, 2, 3))):
            _mutate_message(message, random)
        return bytes(message.SerializeToString())

    return mutated


def _mutate_message(message: Any, random: Random) -> None:
    """Walks down to one field, and changes it."""
    fields = [field for field, _ in message.ListFields()]
    if not fields:
        return
    field = random.choice(fields)
    value = getattr(message, field.name)
    if field.message_type is not None and random.random() < 0.85:
        inner = random.choice(value) if field.is_repeated else value
        _mutate_message(inner, random)
    elif field.is_repeated:
        _mutate_repeated(value, random)
    elif random.random() < 0.3:
        message.ClearField(field.name)
    elif field.message_type is None:
        with suppress(ValueError):  # an enumerator that there is none of
            setattr(message, field.name, _scalar(value, random))


def _mutate_repeated(values: Any, random: Random) -> None:
    place = random.randrange(len(values))
    match random.randrange(4):
        case 0:
            del values[place]
        case 1:
            values.append(values[place])
        case 2 if not hasattr(values[place], "ListFields"):
            values[place] = _scalar(values[place], random)
        case _:
            values.extend([values[place]] * random.choice((1, 20)))


def _scalar(value: Any, random: Random) -> Any:
    if isinstance(value, str):
        return random.choice(("", "x", value + "x", "../x", "/etc/passwd", "a\0b", "input_ids", "9" * 300))
    if isinstance(value, bytes):
        return bytes_mutated(value, random)
    if isinstance(value, float):
        return random.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    return random.choice((0, 1, 2, value + 1, 16, 99, (1 << 31) - 1))
