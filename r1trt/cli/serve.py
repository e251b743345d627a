"""`r1trt serve`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.options import (
    DIRECTORY,
    FILE,
    cluster_option,
    json_option,
    prompt_lookup_option,
    reuse_options,
    threads_option,
)
from r1trt.cli.output import print_result, progress_reporter
from r1trt.errors import UsageError

if TYPE_CHECKING:
    from r1trt.triton_server.serve import ServedModels
    from r1trt.triton_server.served_models import EngineToServe

EPILOG = """
\b
Examples:
  r1trt serve engines/SmolLM2/cpu-fp32 --openai-port 9000
  r1trt serve engines/SmolLM2/cpu-fp32 small=engines/SmolLM2/cpu-int8
"""

PORT = click.IntRange(min=1, max=65535)


class NamedEngine(click.ParamType["tuple[str | None, Path]"]):
    """A directory that is there, with a name for it in front where one is given: NAME=ENGINE."""

    name = "engine"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str | None, Path]:
        """Name and directory; a directory with such a path as a whole comes first."""
        name, sign, path = str(value).partition("=")
        if not sign or Path(value).is_dir():
            return None, DIRECTORY.convert(value, param, ctx)
        return name, DIRECTORY.convert(path, param, ctx)


@click.command(epilog=EPILOG, short_help="Start a Triton server with builds, on this machine.")
@click.argument("engines", nargs=-1, required=True, type=NamedEngine(), metavar="[NAME=]ENGINE...")
@click.option("--http-port", type=PORT, default=8000, show_default=True, metavar="N", help="HTTP.")
@click.option("--grpc-port", type=PORT, default=8001, show_default=True, metavar="N", help="gRPC.")
@click.option(
    "--metrics-port", type=PORT, default=8002, show_default=True, metavar="N", help="Prometheus metrics."
)
@click.option("--openai-port", type=PORT, metavar="N", help="OpenAI's interface; default: it is not served.")
@click.option(
    "--openai-host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where OpenAI's interface is listened for: 0.0.0.0 lets other machines in.",
)
@click.option(
    "--api-key-file",
    type=FILE,
    metavar="FILE",
    help="Keys, one a line, of which OpenAI's clients have to send one; default: nobody has to.",
)
@click.option(
    "--model-name",
    metavar="NAME",
    help="Name that clients ask for, of one ENGINE; default: the checkpoint's.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests of each model that run at a time; default: the engine's --max-batch-size.",
)
@click.option(
    "--drain-seconds",
    type=click.FloatRange(min=0, max=86400),
    default=0.0,
    show_default=True,
    metavar="N",
    help="At SIGTERM or Ctrl-C take nothing new, and let what runs and waits go on for so long; a second"
    " signal ends it at once.",
)
@threads_option(of="of each model", default="the cores that affinity and the container leave, shared out")
@prompt_lookup_option
@reuse_options
@cluster_option("Run the parts of each ENGINE on the Ray cluster whose head is at HOST:PORT, an actor each.")
@json_option
def serve(
    engines: tuple[tuple[str | None, Path], ...],
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    openai_port: int | None,
    openai_host: str,
    api_key_file: Path | None,
    model_name: str | None,
    drain_seconds: float,
    reuse: dict[str, Any],
    as_json: bool,
    **shared: Any,
) -> None:
    """Start a Triton server with each ENGINE, a build directory for a CPU, until Ctrl-C.

    Clients ask a model by its name, the checkpoint's or NAME. An ENGINE may also be a model repository that
    `r1trt triton` wrote for a CPU. Its model.py is code, and runs: serve repositories that you trust.

    The server listens on this machine's loopback interface only, save for what --openai-host says. It comes
    from the package index and is kept in the user's cache directory.
    """
    from r1trt.openai.config import keys_from_file
    from r1trt.package.limits import GenerationLimits
    from r1trt.triton_server.serve import ServeConfig, served_models

    limits = GenerationLimits(**reuse, **shared)
    config = ServeConfig(
        engines=_engines_to_serve(engines, model_name),
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        openai_port=openai_port,
        openai_host=openai_host,
        api_keys=() if api_key_file is None else keys_from_file(api_key_file),
        drain_seconds=drain_seconds,
        limits=None if limits == GenerationLimits() else limits,
    )
    with ExitStack() as stack:
        with progress_reporter() as progress:
            served = stack.enter_context(served_models(config, progress, _log))
        _print_models(served, as_json=as_json)
        served.server.wait()


def _engines_to_serve(
    engines: tuple[tuple[str | None, Path], ...], model_name: str | None
) -> tuple[EngineToServe, ...]:
    from r1trt.triton_server.served_models import EngineToServe

    if model_name is not None and (len(engines) > 1 or engines[0][0] is not None):
        raise UsageError("--model-name is for one ENGINE without a name.", fix="write NAME=ENGINE for each")
    return tuple(EngineToServe(path=path, name=name or model_name) for name, path in engines)


def _print_models(served: ServedModels, *, as_json: bool) -> None:
    sampling = {model.name: model.sampling.config() for model in served.models}
    options = ("temperature", "top_k", "top_p")
    result = {
        "models": [
            {"name": name, "sampling_defaults": {option: getattr(config, option) for option in options}}
            for name, config in sampling.items()
        ],
        "pid": served.server.pid,
        "http": served.http,
        "grpc": served.grpc,
        "metrics": served.metrics,
        "openai": served.openai,
    }
    names, several = ", ".join(sampling), len(sampling) > 1
    lines = [
        f"{names} {'are' if several else 'is'} served: HTTP {served.http}, gRPC {served.grpc},"
        f" metrics {served.metrics}"
        + ("" if served.openai is None else f", OpenAI http://{served.openai}/v1"),
        *(f"  {example}" for example in served.examples),
        *(
            f"tokens{f' of {name}' if several else ''} are chosen with {config.text}, unless a request says"
            for name, config in sampling.items()
        ),
        "stop with Ctrl-C",
    ]
    print_result(result, lines, as_json=as_json)


def _log(text: str) -> None:
    click.echo(f"r1trt: {text}", err=True)
