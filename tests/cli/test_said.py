"""What all commands share: exit codes, errors in one line, help with an example."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from xrouter_lg import __version__, cli
from xrouter_lg.checkpoints.aliases import NotPromotedError
from xrouter_lg.cli.options import Requests, parse_pairs
from xrouter_lg.cli.said import EXIT_CODES, ExitCode, command, echo
from xrouter_lg.errors import PoolError

RUN = CliRunner()


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    group = typer.main.get_command(cli.app)
    for name in list(group.commands):  # type: ignore[attr-defined]
        _, found, _ = group.resolve_command(None, [name])  # type: ignore[attr-defined]
        inner = getattr(found, "commands", None)
        if inner is None:
            yield name, found
            continue
        for second, leaf in inner.items():
            yield f"{name} {second}", leaf


LEAVES = dict(leaves())


def raising(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @command(app, "fail", example="fail", interrupted="all is kept")
    def fail() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (PoolError("no card"), 2, "xrouter: no card"),
        (ValueError("a bad\n    setting"), 2, "xrouter: a bad setting"),
        (FileNotFoundError(2, "not there", "x"), 2, "xrouter: [Errno 2] not there: 'x'"),
        (NotPromotedError("it loses"), 3, "xrouter: not promoted: it loses"),
        (KeyboardInterrupt(), 130, "xrouter: all is kept"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(
    error: BaseException, code: int, line: str
) -> None:
    found = RUN.invoke(raising(error), [])
    assert (found.exit_code, found.stderr, found.stdout) == (code, f"{line}\n", "")


def test_a_missing_package_is_told_with_its_extra() -> None:
    found = RUN.invoke(raising(ModuleNotFoundError("no polars", name="polars.io")), [])
    assert found.exit_code == 2
    assert "'polars'" in found.stderr and 'pip install "xrouter_lg[data]"' in found.stderr


@pytest.mark.parametrize(
    "error",
    [ModuleNotFoundError("gone", name="xrouter_lg.gone"), AssertionError("wrong"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_what_nobody_foresaw_is_one_line_that_says_how_to_see_the_rest(error: Exception) -> None:
    found = RUN.invoke(raising(error), [])
    assert found.exit_code == ExitCode.UNFORESEEN
    assert found.stderr.startswith(f"xrouter: {type(error).__name__}: ")
    assert found.stderr.count("\n") == 1 and "--debug" in found.stderr


@pytest.mark.parametrize("how", ["option", "environment"])
def test_debug_shows_where_an_error_comes_from(how: str) -> None:
    arguments, env = (["--debug"], {}) if how == "option" else ([], {"XROUTER_DEBUG": "1"})
    found = RUN.invoke(raising(PoolError("no card")), arguments, env=env)
    assert found.exit_code == 2
    assert "Traceback" in found.stderr and "in fail" in found.stderr
    assert found.stderr.endswith("xrouter: no card\n")


@pytest.mark.parametrize("name", LEAVES)
def test_a_wrong_command_line_is_one_line_that_names_the_help(name: str) -> None:
    found = RUN.invoke(cli.app, [*name.split(), "--no-such-option"], prog_name="xrouter")
    assert found.exit_code == 2 and found.stdout == ""
    assert found.stderr.count("\n") == 1 and "--no-such-option" in found.stderr
    assert found.stderr.endswith(f"See `xrouter {name} --help`\n")


def test_a_wrong_value_and_a_wrong_name_are_told() -> None:
    found = RUN.invoke(cli.app, ["serve", "--port", "many", "--pool", "p"], prog_name="xrouter")
    assert "'--port'" in found.stderr and "'many'" in found.stderr
    found = RUN.invoke(cli.app, ["trian"], prog_name="xrouter")
    assert found.stderr == "xrouter: No such command 'trian'. Did you mean 'train'? See " + (
        "`xrouter --help`\n"
    )


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_debug(name: str) -> None:
    assert any("--debug" in option.opts for option in LEAVES[name].params)


def test_completion_is_offered_once_and_knows_the_commands() -> None:
    shown = RUN.invoke(cli.app, ["--help"]).output
    assert "--install-completion" in shown
    assert not any("completion" in str(o.opts) for leaf in LEAVES.values() for o in leaf.params)
    for typed, expected in (("xrouter sav", "savings"), ("xrouter traces pu", "push")):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1)}
        env = {**words, "_XROUTER_COMPLETE": "complete_bash"}
        found = RUN.invoke(cli.app, [], prog_name="xrouter", env=env)
        assert expected in found.stdout.split()


def test_the_help_lists_the_exit_codes() -> None:
    shown = " ".join(RUN.invoke(cli.app, ["--help"]).output.split())
    assert "Exit codes:" in shown
    for code, meaning in EXIT_CODES.items():
        assert f"{code:d} {meaning}" in shown
    assert set(EXIT_CODES) == set(ExitCode)


def test_the_documented_exit_codes_are_those_of_the_commands() -> None:
    guide = Path(__file__).parents[2].joinpath("docs", "guide.md").read_text()
    for code, meaning in EXIT_CODES.items():
        assert f"| {code:d} | {meaning} |" in guide


def test_the_version_is_told() -> None:
    found = RUN.invoke(cli.app, ["--version"])
    assert (found.exit_code, found.stdout) == (0, f"xrouter {__version__}\n")


def test_the_help_lists_every_command() -> None:
    shown = RUN.invoke(cli.app, ["--help"]).output
    assert {name.split()[0] for name in LEAVES} <= set(shown.split())


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_an_example_that_can_be_typed(name: str) -> None:
    said = LEAVES[name].epilog
    assert said.startswith(f"Example: xrouter {name}")
    arguments = shlex.split(said.removeprefix(f"Example: xrouter {name}"))
    # A wrong option, or a missing one, is refused here; nothing is run.
    with LEAVES[name].make_context(name, arguments) as context:
        assert context.params


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_a_json_form(name: str) -> None:
    assert any("--json" in option.opts for option in LEAVES[name].params)


def test_no_command_asks_for_a_checkout() -> None:
    for name in LEAVES:
        shown = RUN.invoke(cli.app, [*name.split(), "--help"])
        assert shown.exit_code == 0 and "checkout" not in shown.output


def test_help_needs_no_extra_but_its_own() -> None:
    code = (
        "import sys\nfor name in ('polars', 'numpy', 'scipy', 'torch'): sys.modules[name] = None\n"
        "from typer.testing import CliRunner\nfrom xrouter_lg import cli\n"
        f"for name in {list(LEAVES)!r}:\n"
        "    out = CliRunner().invoke(cli.app, [*name.split(), '--help'])\n"
        "    assert out.exit_code == 0, out.output\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_group_of_options_reads_as_single_ones() -> None:
    app, seen = typer.Typer(), []

    @command(app, "ask", example="ask")
    def ask(requests: Requests, limit: int = 3) -> None:
        seen.append((requests, requests.filters(limit)))

    found = RUN.invoke(app, ["--min-score", "0", "--errors", "--thread", "t1"])
    assert found.exit_code == 0, found.output
    [(requests, filters)] = seen
    assert requests == Requests(min_score=0.0, errors=True, thread="t1")
    assert filters == {"min_score": 0.0, "errors": True, "thread_id": "t1", "limit": 3}


def test_the_last_equals_sign_parts_a_pair() -> None:
    assert parse_pairs(["a=b=c", " d = e "], "--rename", "TABLE=CARD") == {"a=b": "c", "d": "e"}


def test_no_command_prints_what_may_steer_a_terminal_or_hold_a_password() -> None:
    folder = Path(cli.__file__).parent
    past = [
        f"{path.relative_to(folder)}: {line.strip()}"
        for path in folder.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "typer.echo(" in line and "printable(" not in line and "__version__" not in line
    ]
    assert past == []


def test_a_line_names_no_password_and_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    echo("3 in postgresql://me:pass@word@db:5432/x\rOK \x1b[2J\r\nend")
    assert capsys.readouterr().out == (
        "3 in postgresql://[redacted]@db:5432/x\ufffdOK \ufffd[2J\nend\n"
    )


def test_a_traceback_can_not_steer_the_terminal() -> None:
    app = raising(RuntimeError("\x1b]0;owned\x07 of postgresql://me:secret@db/x"))
    found = RUN.invoke(app, ["--debug"])
    assert found.exit_code == 70 and "owned" in found.stderr
    assert "\x1b" not in found.stderr and "secret" not in found.stderr
