"""The `r1trt` command, and `python -m r1trt`."""

import signal

# Until the program has its own way to end: Python would raise KeyboardInterrupt in the midst of an import.
signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys  # noqa: E402

from r1trt.lifetime.ending import end_by_default, end_on_signals  # noqa: E402
from r1trt.lifetime.standard_streams import open_closed_streams, print_any_text  # noqa: E402


def entry_point() -> None:
    """The `r1trt` console script: one command, and the process's end."""
    open_closed_streams()
    print_any_text()
    end_on_signals()
    from r1trt.cli import main

    code = main()
    end_by_default()
    sys.exit(code)


if __name__ == "__main__":
    entry_point()
