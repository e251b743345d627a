"""The front end beside a Triton server that runs already, as in a container: `python -m r1trt.openai`."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path

import click

from r1trt.door.admission import Admission
from r1trt.door.limits import DoorLimits
from r1trt.door.listening import LOOPBACK, listening_socket
from r1trt.errors import R1TrtError
from r1trt.openai.config import OpenAiConfig, keys_from_file
from r1trt.openai.server import OpenAiServer


@click.command()
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="In Triton; default: all that generate text."
)
@click.option("--grpc", "address", default="127.0.0.1:8001", show_default=True, help="Triton's, for gRPC.")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=9000, show_default=True, help="And port.")
@click.option("--api-key-file", type=click.Path(path_type=Path), help="Keys of which clients send one.")
@click.option(
    "--body-bytes", type=click.IntRange(min=1), default=DoorLimits.body_bytes, show_default=True,
    help="Of a request, at most.",
)  # fmt: skip
@click.option(
    "--drain-seconds", type=click.FloatRange(min=0), default=0.0, show_default=True,
    help="For requests that run when SIGTERM or Ctrl-C ends it.",
)  # fmt: skip
def main(
    models: tuple[str, ...],
    address: str,
    host: str,
    port: int,
    api_key_file: Path | None,
    body_bytes: int,
    drain_seconds: float,
) -> None:
    """OpenAI's interface to models of a Triton server."""
    if not drain_seconds < math.inf:
        raise click.BadParameter("it is no time", param_hint="--drain-seconds")
    try:
        config = OpenAiConfig(
            models=models,
            host=host,
            port=port,
            keys=keys_from_file(api_key_file) if api_key_file else (),
            limits=DoorLimits(body_bytes=body_bytes),
        )
        asyncio.run(_serve(config, address, drain_seconds))
    except R1TrtError as error:
        raise click.ClickException(str(error)) from error


async def _serve(config: OpenAiConfig, address: str, drain_s: float) -> None:
    admission = Admission()
    server = OpenAiServer(config, address, admission, drain_s)
    with listening_socket(config.host, config.port, fix="choose another with --port") as listening:
        await server.start(listening)
        admission.admit()
        if config.note is not None:
            click.echo(config.note, err=True)
        click.echo(f"{', '.join(config.models) or 'all models'}: http://{config.address}/v1")
        try:
            await server.wait()
        finally:
            await server.stop()


if __name__ == "__main__":
    main()
