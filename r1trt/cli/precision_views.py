"""`r1trt precision show`, `diff`, `explain` and `bisect`."""

from __future__ import annotations

from pathlib import Path

import click

from r1trt.cli.options import DIRECTORY, FILE, UnicodePath, device_option, json_option, threads_option
from r1trt.cli.output import print_result, progress_reporter


@click.command(short_help="A plan as a table, and as a picture.")
@click.argument("plan", type=FILE)
@click.option("--model", type=DIRECTORY, metavar="EXPORT", help="The model: for the picture's times.")
@device_option("one of the plan's --arch")
@click.option(
    "-o",
    "--output",
    type=UnicodePath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write a picture there (SVG): a box a layer, coloured by type and as wide as its time.",
)
@json_option
def show(plan: Path, model: Path | None, device: str | None, output: Path | None, as_json: bool) -> None:
    """Show PLAN by layer: types, scales, and what computes it."""
    from dataclasses import asdict

    from r1trt.artifacts.disk import replace_file
    from r1trt.cli.inspect import summary_lines
    from r1trt.inspect.plan import summary_of_plan
    from r1trt.precision.plan_file import load_plan
    from r1trt.search.picture import picture_of_plan
    from r1trt.search.times import seconds_by_layer

    loaded = load_plan(plan)
    seconds = {} if model is None else seconds_by_layer(loaded, model, device)
    summary = summary_of_plan(plan)
    lines = list(summary_lines(summary))
    if output is not None:
        replace_file(output, picture_of_plan(loaded, seconds))
        lines.append(f"picture: {output}")
    result = {**asdict(summary), "seconds": seconds, "picture": None if output is None else str(output)}
    print_result(result, lines, as_json=as_json)


@click.command(short_help="What differs between two plans.")
@click.argument("first", type=FILE)
@click.argument("second", type=FILE)
@json_option
def diff(first: Path, second: Path, as_json: bool) -> None:
    """List the layers in which two plans differ, in types and scales."""
    from dataclasses import asdict

    from r1trt.precision.plan_file import load_plan
    from r1trt.search.compare_plans import differences

    found = differences(load_plan(first), load_plan(second))
    lines = [f"{item.layer}: {item.field} {item.first or '-'} -> {item.second or '-'}" for item in found]
    count = len({item.layer for item in found})
    lines.append(f"{count} layers differ" if found else "the plans have the same types and scales")
    print_result({"differences": [asdict(item) for item in found], "layers": count}, lines, as_json=as_json)


@click.command(short_help="Why a layer has its types.")
@click.argument("directory", type=DIRECTORY)
@click.argument("layer")
@click.option("--model", type=DIRECTORY, metavar="EXPORT", help="The model: for the numbers of its weights.")
@json_option
def explain(directory: Path, layer: str, model: Path | None, as_json: bool) -> None:
    """Explain LAYER of the plan in DIRECTORY, which r1trt precision search wrote."""
    from dataclasses import asdict

    from r1trt.export.io import load_export
    from r1trt.search.explain import explanation_of_layer

    found = explanation_of_layer(directory, layer, None if model is None else load_export(model))
    planned = found.planned
    lines = [f"{found.layer} ({planned.op}): {planned.input} x {planned.weight or '-'} -> {planned.output}"]
    lines.append(f"  why: {planned.reason}")
    if found.input_range is not None:
        lines.append(f"  input: {planned.input} up to {found.input_range:.4g}")
    lines += [
        f"  {item.name}: up to {item.largest:.4g}, {item.outliers:.1f} times its root mean square; "
        f"error in {', '.join(f'{kind} {error:.2%}' for kind, error in item.errors.items())}"
        for item in found.weights
    ]
    if found.group is not None:
        lines.append(f"  chosen with: {found.group}")
    lines += [
        f"  {kind:<12} KL {numbers['kl']:.3g} +- {numbers['error']:.2g} nats, "
        f"{1e3 * numbers['seconds']:.3f} ms modelled, {numbers['bytes'] / 1e6:.2f} MB"
        for kind, numbers in found.choices.items()
    ]
    print_result(asdict(found), lines, as_json=as_json)


@click.command(short_help="Which layers of a plan break a prompt.")
@click.argument("model", type=DIRECTORY)
@click.argument("plan", type=FILE)
@click.option("--prompt", required=True, help="Text to read.")
@click.option(
    "--worst", type=click.IntRange(min=1), default=2, show_default=True, help="Decoder layers to look into."
)
@threads_option()
@json_option
def bisect(model: Path, plan: Path, prompt: str, worst: int, threads: int | None, as_json: bool) -> None:
    """Run MODEL, an export, in FP32 but for one piece in the types of PLAN, then for one layer."""
    from dataclasses import asdict

    from r1trt.search.bisect_run import bisect_prompt

    with progress_reporter() as progress:
        found, words = bisect_prompt(model, plan, prompt, worst=worst, threads=threads, progress=progress)
    lines = [f"next token: {words[found.token_exact]!r} in FP32, {words[found.token_planned]!r} as planned; "
             f"KL {found.kl:.3g} nats"]  # fmt: skip
    lines.append("piece                     KL alone   last token  KL up to here  next token with it alone")
    lines += [
        f"{item.name:<24} {item.kl:>9.2g} {item.kl_last:>12.2g} {item.kl_so_far or 0.0:>14.2g}"
        f"  {words[item.token]!r}"
        for item in found.pieces
    ]
    lines.append("layers of the worst pieces:")
    lines += [f"  {item.name:<44} {item.kl:>9.2g} {item.kl_last:>12.2g}" for item in found.layers[:12]]
    print_result(asdict(found), lines, as_json=as_json)
