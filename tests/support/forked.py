"""Python functions in processes of their own, that may be killed at any point."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType


class Forks:
    """Starts functions in processes that are forked from one that has imported their packages: a
    fresh interpreter would spend two seconds of CPU on them every time. ``imports`` are modules
    that start no threads."""

    def __init__(self, folder: Path, imports: str) -> None:
        self.said, self.errors = folder / "said.txt", folder / "errors.txt"
        self._parent = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import {imports}\n{_PARENT}",
                str(self.said),
                str(self.errors),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def start(self, function: str, *arguments: str, dies_at: int = 0, within: str = "") -> int:
        """The process id of ``module:function`` with these arguments. It kills itself (SIGKILL)
        right before it opens, renames, removes, makes or flushes files in the folder ``within``,
        or connects to a server, for the ``dies_at``-th time; 0 never."""
        assert self._parent.stdin is not None
        self._parent.stdin.write(json.dumps([function, arguments, dies_at, within]) + "\n")
        self._parent.stdin.flush()
        return int(self._line())

    def wait(self) -> int:
        """Its exit code; below 0 the number of the signal that ended it."""
        return int(self._line())

    def run(self, function: str, *arguments: str, dies_at: int = 0, within: str = "") -> int:
        """To its end; the exit code."""
        self.start(function, *arguments, dies_at=dies_at, within=within)
        return self.wait()

    def _line(self) -> str:
        assert self._parent.stdout is not None
        return self._parent.stdout.readline()

    def close(self) -> None:
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._parent.wait(timeout=60)
        assert self._parent.stdout is not None
        self._parent.stdout.close()


def cli(*arguments: str) -> None:
    """``xrouter`` with these arguments."""
    from xrouter_lg.cli import main

    sys.argv = ["xrouter", *arguments]
    main()


_PARENT = """
import importlib, json, os, signal, sys

WITHIN = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "sqlite3.connect", "flush"}

def dies(at, within):
    seen = 0
    fsync = os.fsync
    def flushed(descriptor):
        sys.audit("flush", os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)
    os.fsync = flushed
    def watch(event, args):
        nonlocal seen
        if event == "socket.connect" or (event in WITHIN and str(args[0]).startswith(within)):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

for line in sys.stdin:
    function, arguments, at, within = json.loads(line)
    pid = os.fork()
    if pid == 0:
        for number, path in zip((1, 2), sys.argv[1:]):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        module, name = function.split(":")
        if at:
            dies(at, within)
        code = 1
        try:
            getattr(importlib.import_module(module), name)(*arguments)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
