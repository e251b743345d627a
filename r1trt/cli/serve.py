"""`r1trt serve`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from r1trt.cli.options import FILE, engine_argument, json_option, reuse_options, threads_option
from r1trt.cli.output import print_result, progress_reporter

if TYPE_CHECKING:
    from r1trt.triton_server.serve import ServedModel

EPILOG = """
\b
Example:
  r1trt serve engines/SmolLM2/cpu-fp32 --openai-port 9000
"""

PORT = click.IntRange(min=1, max=65535)


@click.command(epilog=EPILOG, short_help="Start a Triton server with a build, on this machine.")
@engine_argument
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
@click.option("--model-name", metavar="NAME", help="Name that clients ask for; default: the checkpoint's.")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="Requests that run at a time; default: the engine's --max-batch-size.",
)
@threads_option
@reuse_options
@json_option
def serve(
    engine: Path,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    openai_port: int | None,
    openai_host: str,
    api_key_file: Path | None,
    model_name: str | None,
    rows: int | None,
    threads: int | None,
    reuse: dict[str, Any],
    as_json: bool,
) -> None:
    """Start a Triton server with ENGINE, a build directory for a CPU, until Ctrl-C.

    ENGINE may also be a model repository that `r1trt triton` wrote for a CPU. Its model.py is code, and runs:
    serve repositories that you trust.

    The server listens on this machine's loopback interface only, save for what --openai-host says. It comes
    from the package index and is kept in the user's cache directory.
    """
    from r1trt.openai.config import keys_from_file
    from r1trt.package.limits import GenerationLimits
    from r1trt.triton_server.serve import ServeConfig, served_model

    limits = GenerationLimits(rows=rows, threads=threads, **reuse)
    config = ServeConfig(
        engine=engine,
        model_name=model_name,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        openai_port=openai_port,
        openai_host=openai_host,
        api_keys=() if api_key_file is None else keys_from_file(api_key_file),
        limits=None if limits == GenerationLimits() else limits,
    )
    with ExitStack() as stack:
        with progress_reporter() as progress:
            model = stack.enter_context(served_model(config, progress, _log))
        _print_model(model, as_json=as_json)
        model.server.wait()


def _print_model(model: ServedModel, *, as_json: bool) -> None:
    sampling = model.sampling.config()
    result = {
        "model_name": model.name,
        "pid": model.server.pid,
        "http": model.http,
        "grpc": model.grpc,
        "metrics": model.metrics,
        "openai": model.openai,
        "sampling_defaults": {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p")},
    }
    lines = [
        f"{model.name} is served: HTTP {model.http}, gRPC {model.grpc}, metrics {model.metrics}"
        + ("" if model.openai is None else f", OpenAI http://{model.openai}/v1"),
        *(f"  {example}" for example in model.examples),
        f"tokens are chosen with {sampling.text}, where a request does not say",
        "stop with Ctrl-C",
    ]
    print_result(result, lines, as_json=as_json)


def _log(text: str) -> None:
    click.echo(f"r1trt: {text}", err=True)
