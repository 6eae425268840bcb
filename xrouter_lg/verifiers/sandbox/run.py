"""Run Python that nobody trusts: answers of models that are graded by running them.

Four levels, found by trying, and what each one guarantees:

``bubblewrap`` (Linux with user namespaces and the program ``bwrap``): as ``full``, with namespaces
    and file system by bubblewrap, which others rely on too.
``full`` (Linux with user namespaces): no network and no sockets at all, no other processes to see,
    start or signal, a file system of the interpreter (read-only) and one bounded scratch folder,
    none of the parent's environment, memory and CPU limits kept by the kernel.
``partial`` (Linux without user namespaces, as in most containers): the same, except for files: the
    program reads and writes what this user may, ``/proc/<parent>/environ`` included.
``weak`` (elsewhere): limits and a clean environment only; network, files and processes are open.

:func:`best_isolation` finds the level, :func:`why_not_higher` says what stands in the way of more.

Above ``weak`` a program can start threads but no process, so killing it leaves nothing behind. CPU
time is what a program is judged by; a wall limit that was spent waiting for a processor is the
machine's fault and raises :class:`SandboxError`, like every other failure of the sandbox itself.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Self

from xrouter_lg.errors import XRouterError
from xrouter_lg.verifiers.sandbox.bubblewrap import BOX, bubblewrap_command, find_bubblewrap
from xrouter_lg.verifiers.sandbox.visible import interpreter, visible

_log = logging.getLogger(__name__)

_CHILD = Path(__file__).with_name("child.py")
_GRACE_S = 15.0
"""Seconds beyond the wall limit after which the supervisor itself counts as hung."""
_REPORT_BYTES = 65536


class SandboxError(XRouterError, RuntimeError):
    """The sandbox failed, not the program in it: no verdict about the program follows."""


class NoProcessorError(SandboxError):
    """The machine was too busy to run the program: fewer at a time, or a longer limit."""


class Isolation(StrEnum):
    """How much the operating system keeps apart; see the module's docstring."""

    BUBBLEWRAP = "bubblewrap"
    FULL = "full"
    PARTIAL = "partial"
    WEAK = "weak"

    def covers(self, wanted: Isolation) -> bool:
        """Whether this level guarantees at least what ``wanted`` does."""
        order = list(Isolation)
        return order.index(self) <= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program may use. Exceeding any of them ends it."""

    cpu_s: int = 5
    """Seconds of CPU time."""
    wall_s: float = 0.0
    """Seconds by the clock; 0 for three times the CPU limit plus two."""
    memory_mb: int = 512
    """Address space."""
    file_mb: int = 16
    """One file, and at ``full`` the whole scratch folder."""
    output_bytes: int = 65_536
    """Standard output and error, together."""

    def __post_init__(self) -> None:
        for name in ("cpu_s", "memory_mb", "file_mb", "output_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} is {value!r}; a whole number of at least 1 is needed")

    @property
    def clock_s(self) -> float:
        return self.wall_s or 3.0 * self.cpu_s + 2.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended. ``cause`` is None after an exit of its own."""

    status: int
    stdout: str
    stderr: str
    cause: str | None
    """``cpu``, ``wall``, ``output`` or None."""
    cpu_s: float
    duration_s: float

    @property
    def ok(self) -> bool:
        return self.cause is None and self.status == 0


@dataclass(slots=True)
class _Output:
    """The first bytes of two streams; ``full`` once there were more."""

    limit: int
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    full: bool = False

    def add(self, stream: bytearray, data: bytes) -> None:
        room = self.limit - len(self.stdout) - len(self.stderr)
        stream += data[: max(room, 0)]
        self.full = self.full or len(data) > room


class Program:
    """A Python program that runs in the sandbox. A context manager: leaving it ends the program."""

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        limits: Limits | None = None,
        isolation: Isolation | None = None,
        keep: Sequence[int] = (),
        args: Sequence[str] = (),
    ) -> None:
        """Start ``main.py`` of ``files`` (plain name: text) with the arguments ``args``.

        Args:
            files: written into the scratch folder, where the program starts.
            limits: what it may use.
            isolation: default the best level available here.
            keep: descriptors of this process that the program inherits under the same numbers.

        Raises:
            SandboxError: the program can't be started.
        """
        if any("/" in name for name in files) or "main.py" not in files:
            raise ValueError(f"files are plain names with a main.py, got {sorted(files)}")
        self._limits = limits or Limits()
        self._isolation = Isolation(isolation or best_isolation())
        self._root = tempfile.mkdtemp(prefix="xrouter-sandbox-")
        self._output = _Output(self._limits.output_bytes)
        self._report = bytearray()
        report_read, report_write = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                self._command(report_write),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(report_write, *keep),
                env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                cwd=self._root,
                start_new_session=True,
            )
        except BaseException as error:
            os.close(report_read)
            shutil.rmtree(self._root, ignore_errors=True)
            if isinstance(error, OSError):
                raise SandboxError(f"the sandbox does not start: {error}") from error
            raise
        finally:
            os.close(report_write)
        self._reader = threading.Thread(target=self._drain, args=(report_read,), daemon=True)
        self._reader.start()
        self._send(files, keep, args)

    def _command(self, report: int) -> list[str]:
        """The supervisor's, wrapped where bubblewrap makes the outside."""
        own = [interpreter(), "-I", "-S", "-B", str(_CHILD), str(report)]
        if self._isolation is not Isolation.BUBBLEWRAP:
            return [sys.executable, *own[1:]]
        program = find_bubblewrap()
        if program is None:
            raise FileNotFoundError("bubblewrap is not installed (Debian, Fedora: bubblewrap)")
        return bubblewrap_command(
            program,
            own,
            script=str(_CHILD),
            visible=visible(),
            work_bytes=self._limits.file_mb << 20,
        )

    def _send(self, files: Mapping[str, str], keep: Sequence[int], args: Sequence[str]) -> None:
        limits, wrapped = self._limits, self._isolation is Isolation.BUBBLEWRAP
        plan = {
            # Inside bubblewrap namespaces are made already: the rest is what partial does.
            "isolation": str(Isolation.PARTIAL if wrapped else self._isolation),
            "root": BOX if wrapped else self._root,
            "visible": visible(),
            "files": dict(files),
            "keep": list(keep),
            "argv": [interpreter(), "-I", "-B", "-X", "utf8", "main.py", *args],
            # One thread for linear algebra: each further one costs address space.
            "environment": {
                "PATH": "/usr/bin:/bin",
                "LC_ALL": "C.UTF-8",
                "PYTHONHASHSEED": "0",
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
            },
            "limits": {
                "cpu_s": limits.cpu_s,
                "wall_s": limits.clock_s,
                "memory_bytes": limits.memory_mb << 20,
                "file_bytes": limits.file_mb << 20,
            },
        }
        assert self._process.stdin is not None
        # A supervisor that died early shows in its report, which is missing.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(plan).encode())
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def _drain(self, report: int) -> None:
        process = self._process
        assert process.stdout is not None and process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, self._output.stdout)
            selector.register(process.stderr, selectors.EVENT_READ, self._output.stderr)
            selector.register(report, selectors.EVENT_READ, None)
            while selector.get_map():
                for key, _ in selector.select():
                    data = os.read(key.fd, 65536)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.data is None:
                        self._report += data[: _REPORT_BYTES - len(self._report)]
                    else:
                        self._output.add(key.data, data)
                        if self._output.full:
                            self.kill()
        os.close(report)

    def kill(self) -> None:
        """End the program now; safe to call at any time and from any thread."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Wait for the end.

        Raises:
            SandboxError: the sandbox failed, or the machine gave the program no processor.
        """
        self._reader.join(self._limits.clock_s + _GRACE_S)
        hung = self._reader.is_alive()
        if hung:
            self.kill()
            self._reader.join(5.0)
        self._process.wait()
        texts = [
            bytes(stream).decode("utf-8", "replace")
            for stream in (self._output.stdout, self._output.stderr)
        ]
        if self._output.full:
            return Ended(-signal.SIGKILL, texts[0], texts[1], "output", 0.0, 0.0)
        if hung or not self._report:
            raise SandboxError(
                f"the sandbox's supervisor {'hangs' if hung else 'died'} "
                f"(status {self._process.returncode}): {texts[1][-500:]!r}"
            )
        return self._judged(json.loads(self._report.splitlines()[0]), *texts)

    def finished(self, within_s: float) -> Ended | None:
        """How the program ended, None if it still runs after so many seconds.

        Raises:
            SandboxError: as :meth:`wait`.
        """
        self._reader.join(within_s)
        return None if self._reader.is_alive() else self.wait()

    def _judged(self, report: dict[str, Any], stdout: str, stderr: str) -> Ended:
        if "failure" in report:
            raise SandboxError(f"isolation {self._isolation!s} failed: {report['failure']}")
        cause = None
        if report["timed_out"]:
            cause = "wall"
            if report["waited_s"] > 0.3 * report["duration_s"]:
                raise NoProcessorError(
                    f"the program got no processor for {report['waited_s']:.1f} of "
                    f"{report['duration_s']:.1f} s; run fewer at a time or raise the limit"
                )
        elif report["status"] < 0 and report["cpu_s"] >= 0.8 * self._limits.cpu_s:
            cause = "cpu"
        return Ended(report["status"], stdout, stderr, cause, report["cpu_s"], report["duration_s"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()
        self._process.wait()
        self._reader.join(5.0)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        shutil.rmtree(self._root, ignore_errors=True)


def run(
    source: str,
    *,
    limits: Limits | None = None,
    isolation: Isolation | None = None,
    files: Mapping[str, str] | None = None,
) -> Ended:
    """Run a program to its end.

    Raises:
        SandboxError: the sandbox failed, not the program.
    """
    with Program({**(files or {}), "main.py": source}, limits=limits, isolation=isolation) as it:
        return it.wait()


def best_isolation() -> Isolation:
    """The strongest level that works on this machine, tried once per process.

    Raises:
        SandboxError: the machine is too busy to tell.
    """
    return _probed()[0]


def why_not_higher() -> str:
    """What failed at the levels above :func:`best_isolation`; empty at the highest."""
    return _probed()[1]


@functools.cache
def say_what_is_open() -> None:
    """Log once per process what programs can reach here, where that is more than at ``full``; at
    ``full`` that bubblewrap does not make it, for who reads notices."""
    best = best_isolation()
    if best is Isolation.FULL:
        _log.info("programs are run at isolation full, not bubblewrap: %s", why_not_higher())
    elif not best.covers(Isolation.FULL):
        _log.warning(
            "programs are run at isolation %s: %s. Not at full, because: %s",
            best,
            _OPEN[best],
            why_not_higher(),
        )


_OPEN = {
    Isolation.PARTIAL: "without network and other processes, with limits and no environment, but "
    "they can read and write the files of this user",
    Isolation.WEAK: "with limits and no environment, but they can reach the network, and the files "
    "and processes of this user",
}


@functools.cache
def _probed() -> tuple[Isolation, str]:
    reasons: list[str] = []
    for level in Isolation if sys.platform == "linux" else ():
        if level is Isolation.WEAK:
            break
        try:
            # A clock that a busy machine doesn't run out of: what is found here stays for good.
            ended = run("print('ready')", isolation=level, limits=Limits(cpu_s=20, wall_s=60.0))
            if ended.stdout == "ready\n":
                return level, "; ".join(reasons)
            reasons.append(f"a program at {level!s} does not start ({ended.stderr[-300:]!r})")
        except NoProcessorError:
            raise
        except SandboxError as error:
            reasons.append(str(error))
    return Isolation.WEAK, "; ".join(reasons) or f"{sys.platform} offers only weak isolation"
