"""The process behind :mod:`xrouter_lg.verifiers.math`: one JSON line in, one out, for ever.

math-verify's own timeouts are signals, which work in a main thread only: here is one. They can't
interrupt a long step inside C; the caller's clock ends the whole process then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import sys
from typing import Any


def judge(answer: str, reference: str, seconds: int) -> dict[str, Any]:
    """Compare two texts; ``error`` instead of ``score`` when no verdict is possible."""
    from math_verify import parse, verify  # type: ignore[import-untyped,unused-ignore]
    from math_verify.errors import (  # type: ignore[import-untyped,unused-ignore]
        TimeoutException,
    )

    # A bare LaTeX reference is only read as LaTeX inside a math environment.
    marked = any(mark in reference for mark in ("$", "\\boxed", "\\(", "\\["))
    gold: list[Any] = []
    try:
        for text in (reference,) if marked else (f"${reference}$", reference):
            gold = parse(text, parsing_timeout=seconds, raise_on_error=True)
            if gold:
                break
        if not gold:
            return {"error": f"the reference {reference[:80]!r} holds no mathematics"}
        found = parse(answer, parsing_timeout=seconds, raise_on_error=True)
        if not found:
            return {"score": 0.0, "reason": "the answer holds no mathematics"}
        right = verify(gold, found, timeout_seconds=seconds, raise_on_error=True)
    except TimeoutException:
        return {"error": f"math-verify took longer than {seconds} s"}
    return {"score": 1.0 if right else 0.0, "reason": ""}


def main() -> None:
    memory = int(sys.argv[1]) << 20
    with contextlib.suppress(ValueError, OSError):  # macOS refuses it
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # The protocol gets a descriptor of its own, so that no library's print can break it.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = judge(request["answer"], request["reference"], request["seconds"])
        except Exception as error:
            reply = {"error": f"math-verify failed: {type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
