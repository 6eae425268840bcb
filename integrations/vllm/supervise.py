"""Run a command, and end it with all its children when the parent of this process is gone.

Run as a script by :class:`~integrations.vllm.server.VllmServer`, which gives it a process group of
its own: vLLM starts workers that a killed launcher would leave behind, each with the model in
memory. Needs nothing but the standard library, since it runs in vLLM's own environment.

    python supervise.py COMMAND ARGUMENT ...
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from types import FrameType

_POLL_S = 0.5
_GRACE_S = 8.0


def main(command: list[str]) -> int:
    """The command's exit status."""
    parent = os.getppid()
    ending = False

    def end(_number: int, _frame: FrameType | None) -> None:
        nonlocal ending
        ending = True

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    child = subprocess.Popen(command)
    while child.poll() is None and not ending and os.getppid() == parent:
        time.sleep(_POLL_S)
    status = child.poll()
    if status is None:
        child.terminate()
        try:
            status = child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            status = -signal.SIGKILL
    # Whatever is left of the group: workers outlive a server that was killed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGKILL)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
