"""``xrouter traces`` as a user types it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tests.tracing.routed import Worker, app_around, question, routed_graph
from xrouter_lg import cli
from xrouter_lg.cli.options import parse_size, parse_when
from xrouter_lg.tracing import Recorder, TraceStore


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Three routed requests: plain, with a fallback, of another policy."""
    path = tmp_path / "traces.db"

    async def fill() -> None:
        with Recorder(path) as recorder:
            for changes in (
                {"thread_id": "t1"},
                {"fallbacks": [{"card": "large", "error": "timeout"}], "route": "backup"},
                {"policy": "knn", "cost_usd": None, "reason": "[bold]near[/bold]"},
            ):
                await app_around(routed_graph(**changes)).ainvoke(
                    question(), {"callbacks": [recorder]}
                )

    asyncio.run(fill())
    return path


def xrouter(*args: str | Path, **env: str) -> Any:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args], env=env)


def listed(*args: str | Path) -> list[dict[str, Any]]:
    result = xrouter("traces", "list", "--json", *args)
    assert result.exit_code == 0, result.output
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_the_list_shows_each_request_with_route_policy_and_cost(db: Path) -> None:
    result = xrouter("traces", "list", "--store", db)
    assert result.exit_code == 0
    for word in ("small", "backup", "knn 1", "unknown", "11+7", "0.0000012", "t1", "3 shown"):
        assert word in result.output


def test_markup_in_a_reason_is_shown_as_it_is(db: Path) -> None:
    assert "[bold]near[/bold]" in xrouter("traces", "list", "--store", db).output


def test_the_store_comes_from_the_environment(db: Path) -> None:
    assert "3 shown" in xrouter("traces", "list", XROUTER_TRACES=str(db)).output


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ((), 3),
        (("--route", "backup"), 1),
        (("--policy", "knn"), 1),
        (("--thread", "t1"), 1),
        (("--fallbacks",), 1),
        (("--limit", "2"), 2),
        (("--min-cost", "1"), 0),
        (("--since", "2100-01-01"), 0),
        (("--until", "2100-01-01"), 3),
    ],
)
def test_each_option_narrows_the_list(db: Path, options: tuple[str, ...], count: int) -> None:
    assert len(listed("--store", db, *options)) == count


def test_an_empty_list_says_so(db: Path) -> None:
    result = xrouter("traces", "list", "--store", db, "--route", "nobody")
    assert "No routed requests match" in result.output


def test_show_draws_the_tree_the_decision_and_the_charges(db: Path) -> None:
    [row] = listed("--store", db, "--thread", "t1")
    result = xrouter("traces", "show", row["trace_id"], "--store", db)
    assert result.exit_code == 0
    for word in ("app", "xrouter", "Worker", "18 tokens", "small 0.700", "worker-1", "cheapest"):
        assert word in result.output


def test_show_takes_the_beginning_of_a_route_id(db: Path) -> None:
    [row] = listed("--store", db, "--thread", "t1")
    result = xrouter("traces", "show", row["id"][:30], "--store", db, "--json")
    assert json.loads(result.stdout)["trace_id"] == row["trace_id"]


def test_show_as_json_holds_runs_routes_and_feedback(db: Path) -> None:
    [row] = listed("--store", db, "--thread", "t1")
    with TraceStore(db) as store:
        store.record_feedback(row["trace_id"], "good", 1.0)
    shown = json.loads(xrouter("traces", "show", row["trace_id"], "--store", db, "--json").stdout)
    assert (len(shown["runs"]), len(shown["routes"]), shown["feedback"][0]["key"]) == (7, 1, "good")


def test_show_prints_an_error_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "t.db"

    async def fail() -> None:
        with Recorder(path) as recorder, pytest.raises(RuntimeError):
            await routed_graph(Worker(error="boom")).ainvoke(question(), {"callbacks": [recorder]})

    asyncio.run(fail())
    with TraceStore(path) as store:
        [trace] = store.find("")
    assert "RuntimeError('boom')" in xrouter("traces", "show", trace, "--store", path).output


def test_an_unknown_id_is_bad_input(db: Path) -> None:
    result = xrouter("traces", "show", "zzz", "--store", db)
    assert result.exit_code == 2
    assert "begins with 'zzz'" in " ".join(result.output.split())


def test_an_ambiguous_id_is_bad_input_and_lists_what_it_could_be(db: Path) -> None:
    result = xrouter("traces", "show", "0", "--store", db)
    assert result.exit_code == 2
    assert "begins more than one trace" in " ".join(result.output.split())


def test_a_bad_time_is_bad_input(db: Path) -> None:
    result = xrouter("traces", "list", "--store", db, "--since", "yesterday")
    assert result.exit_code == 2
    assert "'yesterday' is no time" in result.output


def test_a_missing_store_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    result = xrouter("traces", "list", "--store", tmp_path / "none.db")
    assert result.exit_code == 2
    assert "there is no trace store at" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_export_writes_runs_or_routes(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert "21 runs written" in xrouter("traces", "export", "--to", out, "--store", db).output
    options = ("--to", out, "--store", db, "--routes-only", "--policy", "knn")
    assert "1 routes written" in xrouter("traces", "export", *options).output
    assert json.loads(out.read_text())["record"]["policy"] == "knn"


def test_export_into_no_folder_is_exit_code_2(db: Path, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "x.jsonl"
    assert xrouter("traces", "export", "--to", out, "--store", db).exit_code == 2


def test_an_age_counts_back_from_now() -> None:
    earlier, later = parse_when("2w", "--since"), parse_when("7d", "--since")
    assert earlier is not None and later is not None and earlier < later


def test_help_names_the_sub_commands_without_loading_them() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom xrouter_lg import cli\n"
        "out = CliRunner().invoke(cli.app, ['--help'])\n"
        "assert out.exit_code == 0 and 'traces' in out.output, out.output\n"
        "print([m for m in ('sqlalchemy', 'langgraph', 'langchain_core') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_typer_the_command_names_the_extra() -> None:
    code = "import sys\nsys.modules['typer'] = None\nfrom xrouter_lg.cli import main\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "xrouter_lg[cli]"' in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- filters, files, deletion --------------------------------------------------------------


@pytest.fixture
def people(tmp_path: Path) -> Path:
    """Requests of two users, one of them judged."""
    path = tmp_path / "people.db"

    async def fill() -> None:
        with Recorder(path) as recorder:
            for user in ("jo", "mo"):
                config = {"callbacks": [recorder], "tags": [f"tag-{user}"]}
                graph = app_around(routed_graph(thread_id=f"th-{user}", tenant="acme"))
                await graph.ainvoke(question(), {**config, "metadata": {"user_id": user}})

    asyncio.run(fill())
    with TraceStore(path) as store:
        [row] = store.routes(user="jo")
        store.record_feedback(row.trace_id, "helpful", 0.2)
    return path


@pytest.mark.parametrize(
    "options",
    [
        ["--user", "jo"],
        ["--tag", "tag-jo"],
        ["--feedback", "helpful", "--max-score", "0.5"],
        ["--thread", "th-jo", "--tenant", "acme", "--model", "worker-1"],
    ],
)
def test_list_finds_by_person_tag_model_and_feedback(people: Path, options: list[str]) -> None:
    out = xrouter("traces", "list", "--json", "--store", people, *options).output
    assert [row["record"]["thread_id"] for row in json.loads(out)] == ["th-jo"]


def test_hashed_prompts_are_said_to_train_nothing(tmp_path: Path) -> None:
    path = tmp_path / "hashed.db"
    with Recorder(path, prompts="hashed") as recorder:
        asyncio.run(routed_graph().ainvoke(question(), {"callbacks": [recorder]}))
    with TraceStore(path) as store:
        [row] = store.routes()
    out = xrouter("traces", "list", "--store", path).output
    assert "1 of them hold hashed prompts" in out and "train nothing" in out
    assert "it trains nothing" in xrouter("traces", "show", row.trace_id, "--store", path).output


@pytest.mark.parametrize("name", ["out.jsonl", "out"])
def test_an_export_can_be_imported_and_imported_again(
    people: Path, tmp_path: Path, name: str
) -> None:
    out, new = tmp_path / name, tmp_path / "new.db"
    said = xrouter("traces", "export", "--to", out, "--store", people).output
    assert f"14 runs and 1 feedback written to {out}" in said
    first = xrouter("traces", "import", out, "--store", new).output
    assert "14 runs (14 new) with 2 routes and 1 feedback entries (1 new) imported" in first
    again = xrouter("traces", "import", out, "--store", new, "--project", "old").output
    assert "14 runs (0 new)" in again
    rows = json.loads(xrouter("traces", "list", "--json", "--store", new).output)
    assert {row["project"] for row in rows} == {"old"}


def test_langsmith_s_bulk_export_is_imported_too(people: Path, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    with TraceStore(people) as store:
        runs = [run for trace in store.iter_traces() for run in trace.runs]
        routes = [row.record for row in store.routes()]
    for run in runs:  # as LangSmith writes them: JSON as text, the project by its id
        del run["session_name"]
        for name in ("inputs", "outputs", "extra", "events"):
            run[name] = json.dumps(run[name])
        run["is_root"], run["tenant_id"] = run["parent_run_id"] is None, "tenant"
        run["session_id"] = "01890000-0000-7000-8000-000000000001"
    folder = tmp_path / "export_id=1" / "runs" / "year=2026"
    folder.mkdir(parents=True)
    polars.DataFrame(runs, infer_schema_length=None).write_parquet(folder / "part.parquet")
    new = tmp_path / "new.db"
    said = xrouter("traces", "import", tmp_path / "export_id=1", "--store", new, "--project", "p")
    assert "14 runs (14 new) with 2 routes" in said.output, said.stderr
    with TraceStore(new) as store:
        assert [row.record for row in store.routes(project="p")] == routes


def test_an_import_of_nothing_and_of_nonsense_say_so(tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty.jsonl", tmp_path / "broken.jsonl"
    empty.touch()
    broken.write_text("{oops")
    new = tmp_path / "new.db"
    assert "Nothing to import" in xrouter("traces", "import", empty, "--store", new).output
    done = xrouter("traces", "import", broken, "--store", new)
    assert done.exit_code == 2 and "line 1 holds no JSON" in done.stderr


def test_delete_tells_asks_and_deletes(people: Path) -> None:
    what = ("traces", "delete", "--user", "jo", "--store", people)
    dry = xrouter(*what, "--dry-run").output
    assert "1 traces, 7 runs, 1 routes, 1 feedback of user 'jo' would be deleted" in dry
    refused = CliRunner().invoke(cli.app, [str(arg) for arg in what], input="n\n")
    assert refused.exit_code == 1
    with TraceStore(people) as store:
        assert store.counts()["traces"] == 2
    assert "deleted from" in xrouter(*what, "--yes").output
    with TraceStore(people) as store:
        assert [row.record.thread_id for row in store.routes()] == ["th-mo"]
    assert "Nothing of user 'jo'" in xrouter(*what, "--yes").output


def test_a_trace_is_deleted_by_the_beginning_of_its_id(people: Path) -> None:
    with TraceStore(people) as store:
        [row] = store.routes(user="mo")
    options = ("--trace", row.trace_id[:-3], "--store", people, "--yes", "--keep-file")
    assert "1 traces" in xrouter("traces", "delete", *options).output


@pytest.mark.parametrize("options", [[], ["--user", "jo", "--thread", "th-jo"]])
def test_delete_wants_one_thing_named(people: Path, options: list[str]) -> None:
    done = xrouter("traces", "delete", *options, "--store", people)
    assert done.exit_code == 2 and "give one of --thread" in done.stderr


def test_prune_tells_and_deletes_by_age_and_size(people: Path) -> None:
    what = ("traces", "prune", "--store", people)
    assert (
        "0 of 2 traces are older than 30d"
        in xrouter(*what, "--older-than", "30d", "--dry-run").output
    )
    assert "0 traces" in xrouter(*what, "--older-than", "30d", "--yes").output
    assert "2 traces" in xrouter(*what, "--max-size", "1KB", "--yes").output
    done = xrouter(*what)
    assert done.exit_code == 2 and "--older-than" in done.stderr


@pytest.mark.parametrize(
    ("text", "expected"), [("500MB", 500e6), ("2 gb", 2e9), ("1.5k", 1500), ("7", 7)]
)
def test_a_size_is_read(text: str, expected: float) -> None:
    assert parse_size(text, "--max-size") == expected


@pytest.mark.parametrize("text", ["big", "-1MB", "0", "3PB"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match=r"Use e\.g\. 500MB or 2GB"):
        parse_size(text, "--max-size")


def test_a_prompt_can_not_steer_the_terminal(tmp_path: Path) -> None:
    steering = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\x08"
    path = tmp_path / "traces.db"
    with Recorder(path) as recorder:
        asyncio.run(
            app_around(routed_graph(reason=steering, policy=f"knn{steering}")).ainvoke(
                question(f"What? {steering}"), {"callbacks": [recorder]}
            )
        )
    (row,) = listed("--store", path)
    for args in (("list",), ("show", row["trace_id"]), ("show", row["trace_id"], "--json")):
        said = xrouter("traces", *args, "--store", path).output
        assert "owned" in said or args == ("list",)
        assert not set(said) & set("\x1b\x07\x9b\u202e\x08")
