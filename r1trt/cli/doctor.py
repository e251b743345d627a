"""`r1trt doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click

from r1trt.cli.options import json_option
from r1trt.cli.output import fact_lines, print_result, table_lines
from r1trt.text import size_text


@click.command(short_help="Show what is installed and what can be built here.")
@json_option
def doctor(as_json: bool) -> None:
    """Show what is installed, what can be built here, and how to get what is missing."""
    from r1trt.doctor import diagnosis_of_machine

    diagnosis = diagnosis_of_machine()
    print_result(diagnosis, list(_lines(diagnosis)), as_json=as_json)


def _lines(diagnosis: Mapping[str, Any]) -> Iterator[str]:
    memory, disk = diagnosis["memory"], diagnosis["disk"]
    yield f"r1trt {diagnosis['r1trt']}, Python {diagnosis['python']}, {diagnosis['platform']}"
    facts = {
        "CPUs": diagnosis["cpus"],
        "memory": f"{size_text(memory['available'])} of {size_text(memory['total'])} available",
        "disk": f"{size_text(disk['free'])} free in {disk['path']}",
        "GPU": _gpu_text(diagnosis["cuda"]),
    }
    yield from fact_lines({**facts, **{k: _library_text(v) for k, v in diagnosis["libraries"].items()}})
    yield from ("", "TensorRT plugins:")
    yield from fact_lines(_plugin_facts(diagnosis["plugins"]))
    yield from ("", "Packages:")
    header = ("package", "version", "extra", "needed for")
    rows = [(p["name"], p["version"] or "-", p["extra"], p["needed_for"]) for p in diagnosis["packages"]]
    yield from table_lines(header, rows)
    yield from ("", "Architectures (r1trt build --arch):")
    yield from table_lines(
        ("arch", "builds here", "runs here", "for the rest"), list(map(_arch_row, diagnosis["architectures"]))
    )


def _gpu_text(cuda: Mapping[str, Any]) -> str:
    if not cuda["gpus"]:
        return str(cuda["error"])
    gpus = [f"{gpu['name']} (SM{gpu['sm']}, {size_text(gpu['memory'])})" for gpu in cuda["gpus"]]
    return f"{', '.join(gpus)}; driver for CUDA {cuda['version']}"


def _library_text(library: Mapping[str, Any]) -> str:
    if not library["works"]:
        return f"not usable: {library['error']}"
    more = library.get("providers") or library.get("compute_capabilities")
    return f"{library['version']} ({', '.join(more)})" if more else str(library["version"])


def _plugin_facts(plugins: Mapping[str, Any]) -> dict[str, str]:
    library, toolchain = plugins["library"], plugins["toolchain"]
    facts = {"library": "none built yet"}
    if library and library["problem"]:
        facts["library"] = f"not usable: {library['path']}: {library['problem']}"
    elif library:
        sms = ", ".join(f"SM{sm}" for sm in library["sms"])
        facts["library"] = f"{library['path']} ({sms}; SHA-256 {library['sha256'][:16]}...)"
    facts["FP8 products"] = "; ".join(f"{sms}: {what}" for what, sms in plugins["fp8_products"].items())
    facts["compilers"] = "none found"
    if toolchain:
        headers = "the project's" if toolchain["headers"] == "own" else toolchain["headers"]
        facts["compilers"] = (
            f"nvcc {toolchain['nvcc_version']}, {toolchain['cxx_version']}; TensorRT headers: {headers}"
        )
    if plugins["missing"]:
        facts["to build it"] = "; then ".join(plugins["missing"])
    return facts


def _arch_row(arch: Mapping[str, Any]) -> tuple[str, str, str, str]:
    def target(sm: int | str) -> str:
        return f"SM{sm}" if isinstance(sm, int) else sm

    builds = [f"{', '.join(map(target, sms))} with {backend}" for backend, sms in arch["builds"].items()]
    return (
        arch["arch"],
        "; ".join(builds) or "typed graph only",
        "yes" if arch["runs"] else "no",
        " and ".join(arch["missing"]),
    )
