"""The command line: a command parses its options into one dataclass and calls one function.

This file is the one place that turns exceptions into exit codes: 0 done, 1 failed, 2 wrong usage, 3 needs
hardware or a library that is not here, 4 the time budget of `plugins check` or `bench` ended first. Signals
end the installed command without an exception (`r1trt.lifetime.ending`), with 128 and their number.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence

import click

from r1trt import __version__
from r1trt.cli.build import build
from r1trt.cli.chat import chat
from r1trt.cli.doctor import doctor
from r1trt.cli.estimate import estimate
from r1trt.cli.export import export
from r1trt.cli.finetune import finetune
from r1trt.cli.generate import generate
from r1trt.cli.inspect import inspect
from r1trt.cli.output import print_error
from r1trt.cli.plugins import plugins
from r1trt.cli.precision import precision
from r1trt.cli.profile import profile
from r1trt.cli.prune import prune
from r1trt.cli.serve import serve
from r1trt.cli.triton import triton
from r1trt.cli.validate import validate
from r1trt.errors import R1TrtError

INTERRUPTED = 128 + signal.SIGINT

EPILOG = """
\b
A checkpoint to a sentence, without a GPU:
  r1trt export path/to/checkpoint --max-seq-len 2048
  r1trt build --arch cpu
  r1trt generate engines/checkpoint/cpu-fp32 --prompt "What is the capital of France?"

\b
Exit codes: 0 done; 1 failed; 2 wrong usage; 3 needs hardware or a library
that is not here (the message says which, and how to continue); 4 the time
budget of plugins check or bench ended first (run it again to go on); 130 and
143 ended by Ctrl-C and SIGTERM.
"""


@click.group(
    epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="r1trt")
def cli() -> None:
    """Hugging Face checkpoints to validated TensorRT engines, through ONNX."""


for _command in (
    estimate,
    export,
    build,
    validate,
    generate,
    chat,
    triton,
    serve,
    precision,
    profile,
    prune,
    finetune,
    plugins,
    inspect,
    doctor,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: The command line without the program's name; the process's own by default.

    Returns:
        The exit code.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in arguments
    try:
        code = cli.main(arguments, prog_name="r1trt", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except R1TrtError as error:
        print_error(error, as_json=as_json)
        return error.exit_code
    except click.Abort:
        click.echo("r1trt: interrupted; earlier results are unchanged", err=True)
        return INTERRUPTED
    except click.ClickException as error:
        return _print_usage_error(error, as_json=as_json)
    except (OSError, MemoryError) as error:
        print_error(_expected_error(error), as_json=as_json)
        return R1TrtError.exit_code


def _print_usage_error(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        content = {
            "type": "UsageError",
            "message": error.format_message(),
            "exit_code": error.exit_code,
        }
        click.echo(json.dumps({"error": content}, ensure_ascii=False))
    else:
        error.show()
    return error.exit_code


def _expected_error(error: OSError | MemoryError) -> R1TrtError:
    """What the operating system refused, in the form of the project's own errors."""
    if isinstance(error, MemoryError):
        return R1TrtError(
            "Out of memory.", fix="use a machine with more memory, or a smaller --max-batch-size"
        )
    return R1TrtError(error.strerror or str(error) or type(error).__name__, where=error.filename)
