"""``python -m integrations.langsmith demo|serve``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from integrations.command import status_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.langsmith",
        description="LangSmith without an account: a demo, and the loopback server it uses. "
        "For the real one: xrouter traces pull --help",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="trace, pull, compare and build outcomes")
    demo.add_argument("--folder", type=Path, help="keep stores and tables here")
    serve = commands.add_parser("serve", help="run the loopback server until Ctrl-C")
    serve.add_argument("--port", type=int, default=0, help="a free one if not given")
    options = parser.parse_args(arguments)
    return status_of(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    if options.command == "demo":
        from integrations.langsmith.demo import run

        run(options.folder)
    else:
        from xrouter_lg.testing.langsmith.server import LangSmithServer

        server = LangSmithServer(port=options.port)
        print(f"LANGSMITH_ENDPOINT={server.url}", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())
