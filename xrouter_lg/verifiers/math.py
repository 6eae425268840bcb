"""Mathematical equality by math-verify, from any thread."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from xrouter_lg.extras import missing
from xrouter_lg.verifiers.base import (
    Case,
    Unverifiable,
    Verdict,
    Verifier,
    VerifierConfigError,
)
from xrouter_lg.verifiers.text import accepted

_WORKER = Path(__file__).with_name("math_worker.py")
_IMPORT_S = 60.0
"""Loading sympy takes seconds on a busy machine; only the first question pays for it."""


class Math(Verifier):
    """The answer equals the reference as mathematics: ``1/2``, ``0.5`` and ``\\frac{1}{2}``.

    math-verify runs in a process of its own, kept between calls and replaced when it hangs: its
    timeouts are signals, which fail outside a main thread and inside C. Calls from several
    threads wait for each other. Answers beyond ``max_chars`` are judged by their last part.
    """

    name: ClassVar[str] = "math"
    cases: ClassVar[Sequence[Case]] = (
        Case("The answer is $\\frac{1}{2}$.", "0.5"),
        Case("So we get \\boxed{x^2 - 1}", "(x-1)(x+1)"),
        Case("1,234", "1234"),
        Case("The answer is 13.", "12", good=False),
        Case("I don't know.", "12", good=False),
    )

    def __init__(
        self,
        *,
        timeout_s: int = 5,
        memory_mb: int = 2048,
        max_chars: int = 20_000,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        if timeout_s < 1:
            raise VerifierConfigError(f"timeout_s is {timeout_s!r}; at least 1 second is needed")
        if find_spec("math_verify") is None:
            raise missing("math_verify", "the math verifier")
        self.timeout_s, self.memory_mb, self.max_chars = timeout_s, memory_mb, max_chars
        self._lock = threading.Lock()
        self._worker: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., Math] | None = None

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        answer, verdict = answer[-self.max_chars :], Verdict(0.0)
        for text in accepted(reference):
            verdict = self._ask(answer, text)
            if verdict.score == 1.0:
                return verdict
        return verdict

    def _ask(self, answer: str, reference: str) -> Verdict:
        question = {"answer": answer, "reference": reference, "seconds": self.timeout_s}
        with self._lock:
            reply = self._exchange(json.dumps(question).encode() + b"\n")
        if "error" in reply:
            raise Unverifiable(reply["error"])
        return Verdict(reply["score"], reply["reason"])

    def _exchange(self, line: bytes) -> dict[str, Any]:
        fresh = self._worker is None or self._worker.poll() is not None
        worker = self._start() if fresh else self._worker
        assert worker is not None and worker.stdin is not None and worker.stdout is not None
        # Three timed steps inside (reference, answer, comparison), and some slack.
        deadline = time.monotonic() + 3.0 * self.timeout_s + 2.0 + (_IMPORT_S if fresh else 0.0)
        reply = b""
        try:
            worker.stdin.write(line)
            worker.stdin.flush()
            with selectors.DefaultSelector() as selector:
                selector.register(worker.stdout, selectors.EVENT_READ)
                while not reply.endswith(b"\n"):
                    if not selector.select(max(deadline - time.monotonic(), 0.0)):
                        self._stop()
                        raise Unverifiable(f"math-verify took longer than {self.timeout_s} s")
                    data = os.read(worker.stdout.fileno(), 65536)
                    if not data:
                        break
                    reply += data
        except BrokenPipeError:
            reply = b""
        if not reply:
            self._stop()
            raise Unverifiable("math-verify's process died (out of memory?)")
        result: dict[str, Any] = json.loads(reply)
        return result

    def _start(self) -> subprocess.Popen[bytes]:
        self._stop()
        self._worker = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(_WORKER), str(self.memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # It parses what models wrote: no keys in its environment.
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._worker)
        return self._worker

    def _stop(self) -> None:
        if self._end is not None:
            self._end()
        self._end = self._worker = None

    def close(self) -> None:
        with self._lock:
            self._stop()


def _end(worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    for stream in (worker.stdin, worker.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):
                stream.close()
