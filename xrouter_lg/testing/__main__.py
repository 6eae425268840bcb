"""Run the fake server in a process of its own: `python -m xrouter_lg.testing --port 8101`.

The first line printed is the base URL; SIGINT or SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Sequence

from xrouter_lg.testing.answers import FaultPlan
from xrouter_lg.testing.completion import FakeModel
from xrouter_lg.testing.server import FakeOpenAIServer

_KEPT_REQUESTS = 1000  # a benchmark reads the counts and the bill, not a million bodies


def _plan(spec: str) -> FaultPlan:
    try:
        return FaultPlan.parse(spec)
    except ValueError as error:
        # argparse shows the message of this type only.
        raise argparse.ArgumentTypeError(str(error)) from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m xrouter_lg.testing", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (default): a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="before each answer")
    parser.add_argument("--reply", default="This is a fake answer.", help="text of each answer")
    parser.add_argument(
        "--faults",
        type=_plan,
        default=FaultPlan(),
        metavar="SPEC",
        help="e.g. 'small:429=0.1,500,ok;large:reset*2;*:503@0.2'",
    )
    options = parser.parse_args(arguments)
    model = FakeModel(name="fake", reply=options.reply, latency_s=options.latency_ms / 1000)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    server = FakeOpenAIServer(
        default=model, faults=options.faults, port=options.port, keep_requests=_KEPT_REQUESTS
    )
    with server:
        print(server.base_url, flush=True)
        ended.wait()


if __name__ == "__main__":
    main()
