"""What somebody else writes against the public names, and what a type checker says of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

from tests.support.apps import app, ask, pool, record
from xrouter_lg import Policy, XRouterNode
from xrouter_lg.testing import FakeOpenAIServer

ROOT = Path(__file__).parents[2]

SOURCE = '''
from collections.abc import Sequence

from xrouter_lg import ModelCard, Proposal, RouteRequest


class ByLength:
    """Long questions go to the dearest card."""

    name = "by_length"
    version = "2026.1"

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        long = len(str(request.messages[-1].text)) > 100
        names = sorted(card.name for card in candidates)
        return Proposal({names[0] if long else names[-1]: 1.0}, reason="length")
'''


async def test_a_policy_of_ten_lines_routes(fake: FakeOpenAIServer) -> None:
    namespace: dict[str, type[Policy]] = {}
    exec(SOURCE, namespace)
    graph = app(XRouterNode(pool(fake), policy=namespace["ByLength"]()))
    short, long = [record(await graph.ainvoke(ask(text))) for text in ("Hi", "why " * 50)]
    assert (short["route"], long["route"]) == ("small", "large")
    assert (short["policy"], short["policy_version"]) == ("by_length", "2026.1")


def check_types(tmp_path: Path, use: str) -> subprocess.CompletedProcess[str]:
    module = tmp_path / "stranger.py"
    module.write_text(SOURCE + textwrap.dedent(use))
    options = ["--strict", "--follow-imports=silent", "--config-file", "/dev/null"]
    # Only our own types matter here; LangChain's take half a minute to read.
    options += ["--no-site-packages", "--ignore-missing-imports", "--cache-dir", str(tmp_path)]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(module)],
        capture_output=True,
        text=True,
        timeout=540,
        cwd=ROOT,
    )


def test_a_type_checker_takes_it_for_a_policy_and_refuses_one_without_a_version(
    tmp_path: Path,
) -> None:
    done = check_types(
        tmp_path,
        """
        from xrouter_lg import ModelPool, Policy, Router

        def good(pool: ModelPool) -> Router:
            policy: Policy = ByLength()
            return Router(pool, policy)

        class Nameless:
            async def propose(self, request: int) -> None: ...

        bad: Policy = Nameless()
        """,
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, done.stdout
    assert "Nameless" in errors[0]
