"""Asks TensorRT-RTX what it really executes of each quantized form of a product, and writes the table.

python scripts/builder_capabilities.py [--sm 89]... [--form fp8]... [--check | --json] [--write-docs]

Every form (scripts/capability_forms.py) is a small graph, built for each architecture in a process of its
own; no GPU is needed. The installed version's part of r1trt/precision/capabilities.json is replaced; with
`--write-docs` its document is written too. With `--sm` or `--form` what was found is only printed, with
`--json` too. `--check` writes nothing: it exits with 1 if the builder does otherwise than the table says.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from capability_forms import EXPERTS, FORMS, ROWS, Form, K, N, model_of_form

from r1trt.arch import LIBRARIES, Backend
from r1trt.artifacts.build import BuildDirectory
from r1trt.artifacts.profiles import InputRange, OptimizationProfile, save_profiles
from r1trt.build.child import BuildRequest, build_in_child
from r1trt.build.executed import products_of_engine
from r1trt.errors import BuildError, R1TrtError, UnavailableError
from r1trt.lifetime.temporary import temporary_directory
from r1trt.precision.capabilities import CAPABILITIES, Capability

REPOSITORY = Path(__file__).resolve().parent.parent
DOCUMENT = REPOSITORY / "docs" / "benchmarks" / "builder-capabilities.md"
BACKEND: Backend = "tensorrt-rtx"
SMS = (80, 86, 89, 120)

# What may differ between two builds of a graph: where addresses cannot be fixed, names in the text do.
SIZE_TOLERANCE = 0.01
REASON_LENGTH = 160
MISCOMPILED = (
    "one product of the codes over all of K cannot apply scales that vary along it; the kernel behind it"
    " reads the first N of the scales alone"
)

# Types as the compiler's text spells them, where precision plans do otherwise.
TYPES = {"float": "fp32", "half": "fp16"}
TEXT = re.compile(rb"[\x20-\x7e\n\t]{200,}")
TENSOR = re.compile(r"tensor=\{[^\n]*? name=(?:\"([^\"]*)\"|(\S+))[^\n]*? type=(\w+) \}")
CONSTANT = re.compile(r"tensor=\{[^\n]*? const_payload_size=(\d+) dims=\{ ([\d ]+) \}[^\n]*? type=(\w+) \}")
ATTENTION = re.compile(
    r"function=\{ name=_gemm_mha\w* [^\n]*? input_args=\{([^}]*)\}[^\n]*? output_args=\{([^}]*)\}"
)
NAME = re.compile(r'"([^"]*)"')
FUSED = re.compile(r"runtime_fusion=\{ name=\w*Fc\b")  # other operators in the kernel of a product
PLACES = re.compile(r"^error: (?:I?Builder::\w+: Error Code \d+: )?|\s+In compileGraph at .*")

Table = dict[str, dict[str, Capability]]  # by compute capability, then by form


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.write_docs and (options.sm or options.form):
        parser.error("--write-docs is of all forms and architectures")
    try:
        found = measure(options.sm or SMS, options.form or list(FORMS))
        if options.json:
            print(table_text({_builder(): found}), end="")
            return 0
        if options.check:
            faults = compare(found, read_table().get(_builder(), {}))
            print("\n".join(faults) or f"{_builder()} does what {CAPABILITIES.name} says")
            return 1 if faults else 0
        if options.sm or options.form:
            print("\n".join(rendered(found)))
            return 0
        CAPABILITIES.write_text(table_text({**read_table(), _builder(): found}), encoding="utf-8")
        if options.write_docs:
            DOCUMENT.write_text(document(read_table()), encoding="utf-8")
    except R1TrtError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sm", type=int, action="append", choices=SMS, help="only this architecture")
    parser.add_argument("--form", action="append", choices=FORMS, metavar="FORM", help="only this form")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="compare with the table; write nothing")
    what.add_argument("--json", action="store_true", help="print what was found; write nothing")
    what.add_argument("--write-docs", action="store_true", help=f"write {DOCUMENT.name} too")
    return parser


def _builder() -> str:
    """Name and version of the builder, as the table's key."""
    package = LIBRARIES[BACKEND].package
    try:
        return f"{BACKEND} {metadata.version(package)}"
    except metadata.PackageNotFoundError as error:
        raise UnavailableError("The builder is not installed.", fix=f"pip install {package}") from error


def measure(sms: Sequence[int], names: Sequence[str]) -> Table:
    """Builds every form for every architecture, one process each."""
    table: Table = {str(sm): {} for sm in sms}
    for name in names:
        for sm in sms:
            found = capability(FORMS[name], sm)
            table[str(sm)][name] = found
            print(f"{name}, SM{sm}: {found.verdict}", file=sys.stderr, flush=True)
    return table


def capability(form: Form, sm: int) -> Capability:
    """What becomes of a form on an architecture."""
    parsed: list[Mapping[str, Any]] = []
    with temporary_directory("capabilities") as scratch:
        build = BuildDirectory(path=Path(scratch))
        model = model_of_form(form)
        onnx.save(model, build.typed_graph)
        save_profiles([_profile(model)], build.profiles)
        engine = build.engine(sm)
        request = BuildRequest(
            backend=BACKEND, directory=build.path, graph=build.typed_graph, engines={sm: engine.name}
        )
        try:
            build_in_child(request, on_network=parsed.extend)
        except BuildError as error:
            return Capability(verdict="fails", parses=bool(parsed), reason=_first_error(error))
        return judged(form, engine)


def _profile(model: onnx.ModelProto) -> OptimizationProfile:
    shapes = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    ranges = {
        name: [tuple(dim.dim_value or rows for dim in shape) for rows in ROWS]
        for name, shape in shapes.items()
    }
    inputs = {name: InputRange(min=low, opt=tuned, max=high) for name, (low, tuned, high) in ranges.items()}
    return OptimizationProfile(name="only", inputs=inputs)


def _first_error(error: BuildError) -> str:
    """The builder's first line that is an error, else the message."""
    lines = [line.strip() for line in error.details.get("found", "").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("error", "internal_error", "node "))]
    return PLACES.sub("", (errors or lines or [error.message])[0])[:REASON_LENGTH].rstrip()


def judged(form: Form, engine: Path) -> Capability:
    """The verdict on an engine of a form, from the text that the compiler leaves in it."""
    text = "\n".join(match[0].decode("ascii") for match in TEXT.finditer(engine.read_bytes()))
    products = _products(engine, text)
    stored = _stored(form, text)
    found = Capability(
        verdict="executed",
        products=tuple(products),
        weight=stored[0] if stored else None,
        weight_bytes=stored[1] if stored else 0,
        dequantized=_dequantized(stored, products, text),
        engine_bytes=engine.stat().st_size,
    )
    if not products or any("?" in product for product in products) or (form.weight and not stored):
        return replace(found, verdict="unread")
    if any(product[:2] != (form.operands, form.operands) for product in products):
        return replace(found, verdict="falls back")
    if found.weight != form.weight:
        return replace(found, verdict="materialized")
    if form.blocked:
        flat = f"1 {np.prod(form.constants['ws'][1])}"
        scales = [dims.strip() for _, dims, _ in CONSTANT.findall(text)]
        if flat not in scales:
            return replace(found, verdict="unread", reason="what becomes of the blocks' scales is not seen")
        return replace(found, verdict="miscompiled", reason=MISCOMPILED)
    return found


def _products(engine: Path, text: str) -> list[tuple[str, ...]]:
    """Left, right and result type of each kind of product; of query, key and result for fused attention."""
    listed = products_of_engine(engine, {}).get("products", [])
    found = {(*product["inputs"][:2], *product["output"][:1]) for product in listed}
    types = {quoted or bare: dtype for quoted, bare, dtype in TENSOR.findall(text)}
    for arguments, results in ATTENTION.findall(text):
        names = [*NAME.findall(arguments)[:2], *NAME.findall(results)[:1]]
        found.add(tuple(types.get(name, "?") for name in names))
    return sorted(tuple(TYPES.get(dtype, dtype) for dtype in product) for product in found)


def _dequantized(
    stored: tuple[str, int] | None, products: Sequence[tuple[str, ...]], text: str
) -> Literal["inside", "before"] | None:
    """Where the weight becomes as wide as the operands; None where it is."""
    if stored is None or not products or any(stored[0] in product[:2] for product in products):
        return None
    return "inside" if FUSED.search(text) else "before"


def _stored(form: Form, text: str) -> tuple[str, int] | None:
    """Type and bytes of the constant that has as many values as the weight."""
    for size, dims, dtype in CONSTANT.findall(text):
        if form.weight and np.prod([int(dim) for dim in dims.split()]) == form.weight_elements:
            return TYPES.get(dtype, dtype), int(size)
    return None


def read_table() -> dict[str, Table]:
    """The file's content by builder; empty where there is none yet."""
    if not CAPABILITIES.exists():
        return {}
    document = json.loads(CAPABILITIES.read_text(encoding="utf-8"))
    return {
        builder: {
            sm: {
                name: Capability(**{**entry, "products": tuple(map(tuple, entry.get("products", [])))})
                for name, entry in forms.items()
            }
            for sm, forms in table.items()
        }
        for builder, table in document.items()
    }


def table_text(tables: Mapping[str, Table]) -> str:
    """The tables as JSON, sorted, with one line a form, so that a change of one is a change of one line."""
    builders = []
    for builder, table in sorted(tables.items()):
        targets = []
        for sm, forms in sorted(table.items(), key=lambda item: int(item[0])):
            lines = [f"   {json.dumps(name)}: {_entry(found)}" for name, found in sorted(forms.items())]
            targets.append(f"  {json.dumps(sm)}: {{\n" + ",\n".join(lines) + "\n  }")
        builders.append(f" {json.dumps(builder)}: {{\n" + ",\n".join(targets) + "\n }")
    return "{\n" + ",\n".join(builders) + "\n}\n"


def _entry(found: Capability) -> str:
    """A form's line, without what is as the reader assumes."""
    usual = {item.name: item.default for item in fields(Capability)}
    entry = {name: value for name, value in asdict(found).items() if value != usual[name]}
    return json.dumps(entry, sort_keys=True)


def compare(found: Table, listed: Table) -> list[str]:
    """Where the builder does otherwise than the table says, one line each."""
    faults = [
        f"{name}, SM{sm}: in the table alone"
        for sm, forms in listed.items()
        for name in forms
        if name not in FORMS
    ]
    for sm, forms in found.items():
        for name, now in forms.items():
            before = listed.get(sm, {}).get(name)
            if before is None:
                faults.append(f"{name}, SM{sm}: not in the table; found {_entry(now)}")
                continue
            most = SIZE_TOLERANCE * before.engine_bytes
            if abs(now.engine_bytes - before.engine_bytes) <= most:
                now = replace(now, engine_bytes=before.engine_bytes)
            if now != before:
                faults.append(f"{name}, SM{sm}: the table has {_entry(before)}, found {_entry(now)}")
    return faults


def rendered(table: Table) -> list[str]:
    """A builder's tables as Markdown lines: the verdicts, what the engines hold, the errors."""
    names = [name for name in FORMS if any(name in forms for forms in table.values())]
    lines = [f"| form | | {' | '.join(f'SM{sm}' for sm in table)} |", "|---|---|" + "---|" * len(table)]
    for name in names:
        verdicts = [forms[name].verdict if name in forms else "" for forms in table.values()]
        lines.append(f"| `{name}` | {FORMS[name].title} | {' | '.join(verdicts)} |")
    lines += ["", "| form | | products | weight | engine, bytes |", "|---|---|---|---|---:|"]
    errors: dict[str, dict[str, list[str]]] = {}
    for name in names:
        by_sm = {sm: forms[name] for sm, forms in table.items() if name in forms}
        lines += _held(name, {sm: found for sm, found in by_sm.items() if found.verdict != "fails"})
        for sm, found in by_sm.items():
            if found.verdict == "fails":
                errors.setdefault(found.reason.replace(f"sm{sm}", "sm.."), {}).setdefault(name, []).append(sm)
    lines += ["", "| the builder's error | forms |", "|---|---|"] if errors else []
    for reason, where in errors.items():
        forms = "; ".join(f"`{name}` SM{', SM'.join(sms)}" for name, sms in where.items())
        escaped = reason.replace("|", "\\|")
        lines.append(f"| {escaped} | {forms} |")
    return lines


def _held(name: str, by_sm: Mapping[str, Capability]) -> list[str]:
    """What the engines of a form hold, one row for all architectures where only their sizes differ."""
    groups: dict[Capability, dict[str, int]] = {}
    for sm, found in by_sm.items():
        groups.setdefault(replace(found, engine_bytes=0), {})[sm] = found.engine_bytes
    rows = []
    for same, sizes in groups.items():
        products = "<br>".join(f"{left} x {right} -> {result}" for left, right, result in same.products)
        weight = f"{same.weight}, {same.weight_bytes:,} bytes" if same.weight else ""
        weight += f", dequantized {same.dequantized}" if same.dequantized else ""
        size = " to ".join(f"{size:,}" for size in sorted({min(sizes.values()), max(sizes.values())}))
        where = ", ".join(f"SM{sm}" for sm in sizes)
        rows.append(f"| `{name}` | {where} | {products} | {weight} | {size} |")
    return rows


def document(tables: Mapping[str, Table]) -> str:
    """The document of all tables, newest version first."""
    parts = [HEAD.format(K=K, N=N, EXPERTS=EXPERTS, ROWS=ROWS[-1])]
    for builder, table in sorted(tables.items(), reverse=True):
        parts.append(f"## {builder}\n\n" + "\n".join(rendered(table)) + "\n")
    return "\n".join(parts)


HEAD = """\
# What the builder really executes

Written by `scripts/builder_capabilities.py --write-docs` with `r1trt/precision/capabilities.json`.

A strongly typed graph says in which types a product shall run. Builders take some of these graphs and run
another product. Each form below is a graph of one product, K = {K}, N = {N}, with 1 to {ROWS} rows (of
experts there are {EXPERTS}): FP32 scales and `output_dtype`, weights as [N, K] with a Transpose behind them,
where nothing else is said. It was built for each architecture on a machine without a GPU. Types of operands
and results, and how the weight is stored, are those of the text that TensorRT-RTX's compiler leaves in its
engines. Nothing was executed: this says what runs, and not how fast.

| verdict | |
|---|---|
| executed | both operands have the types that were asked for, and so has the stored weight |
| falls back | it builds, but wider operands are multiplied: quantization is simulated, no arithmetic saved |
| materialized | the operands are as asked, but the engine holds the weight in a wider type |
| miscompiled | it builds, and the engine computes something else |
| fails | the parser or the builder refuses it |
| unread | the text of the engine does not tell |

*Weight alone* asks for a product of BF16 operands from a narrow weight. Where that is *dequantized inside*,
the kernel of the product does it; where it is *dequantized before*, another kernel writes all of it to memory
in BF16 at every call.

For *miscompiled*: where one product of codes runs over all of K, no factor behind it can apply scales that
vary along K. The compiler's CUDA text shows what it does instead: the scales become one row of K / 128 * N,
and the kernel behind the product reads the first N of it (`% {N}`), the scales of the first block of K alone.
"""


if __name__ == "__main__":
    sys.exit(main())
