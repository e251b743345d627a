"""The end of a model whose server is gone."""

from __future__ import annotations

import os
import threading
import time

_POLL_S = 1.0


def exit_without_server() -> None:
    """Ends this process as soon as its server has died, so that it gives back its memory and its GPU.

    A server that was killed cannot say so, and Triton's stub process stays behind. The kernel's own
    signal at a parent's death is no help: it is sent already when the thread ends that started this process.
    """
    threading.Thread(target=_watch, args=(os.getppid(),), name="watch", daemon=True).start()


def _watch(server: int) -> None:
    while os.getppid() == server:
        time.sleep(_POLL_S)
    # At once, since there is nobody left to answer, and the interpreter would wait for the scheduler.
    os._exit(1)
