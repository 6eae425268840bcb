"""Each graph to copy runs as its docstring says, and on another provider by its pool file."""

from __future__ import annotations

import ast
import re
import runpy
from pathlib import Path

import pytest

from xrouter_lg.testing import FakeModel, FakeOpenAIServer

FOLDER = Path(__file__).resolve().parents[2] / "graphs"
COMMAND = re.compile(r"^\$ python -m graphs\.(\w+)\n((?:.+\n)+)", re.MULTILINE)
RUN = sorted(file.stem for file in FOLDER.glob("*.py") if "__main__" in file.read_text())

POOL = """
default: large
models:
  - {name: small, model: small, base_url: "URL", api_key_env: LOCAL_KEY,
     max_output_tokens: 512, price: {input: 0.02, output: 0.06}}
  - {name: large, model: large, base_url: "URL", api_key_env: LOCAL_KEY,
     max_output_tokens: 1024, price: {input: 0.5, output: 1.5}}
"""


def test_every_kind_of_graph_is_there() -> None:
    assert RUN == [
        "parallel_answers",
        "price_approval",
        "rag_app",
        "supervisor_team",
        "support_offline",
        "tool_agent",
        "verified_cascade",
    ]


@pytest.mark.parametrize("name", RUN)
def test_a_graph_prints_what_its_docstring_says(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XROUTER_POOL", raising=False)
    told = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text())) or ""
    dedented = re.sub(r"^    ", "", told, flags=re.MULTILINE)
    ((command, printed),) = COMMAND.findall(dedented)
    runpy.run_module(f"graphs.{command}", run_name="__main__", alter_sys=True)
    assert command == name
    assert capsys.readouterr().out == printed


@pytest.mark.parametrize("name", RUN)
def test_the_pool_file_alone_puts_a_graph_on_another_provider(
    name: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    models = [FakeModel(name=name, reply=f"{name} over HTTP") for name in ("small", "large")]
    with FakeOpenAIServer(models) as server:
        file = tmp_path / "pool.yaml"
        file.write_text(POOL.replace("URL", server.base_url))
        monkeypatch.setenv("XROUTER_POOL", str(file))
        monkeypatch.setenv("LOCAL_KEY", "test")
        runpy.run_module(f"graphs.{name}", run_name="__main__", alter_sys=True)
        assert sum(server.calls.values()) >= 1
    assert "over HTTP" in capsys.readouterr().out
