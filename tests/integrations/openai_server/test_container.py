"""The Dockerfile and the compose file: no Docker here, so each of their commands is run by itself.

The image's build, which installs from the package index, is marked ``wheel``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from openai import AuthenticationError, OpenAI
from openai.types.chat import ChatCompletion

from tests.support.apps import card
from tests.support.installed import ROOT, pip
from xrouter_lg import ModelPool
from xrouter_lg.pool.plain import pool_data
from xrouter_lg.testing import FakeOpenAIServer

HERE = ROOT / "integrations" / "openai_server"
COMPOSE: dict[str, Any] = yaml.safe_load((HERE / "compose.yaml").read_text())
OURS: dict[str, Any] = COMPOSE["services"]["xrouter"]
BESIDE: dict[str, Any] = COMPOSE["services"]["postgres"]
PASSWORD = "pw1234"


def steps(instruction: str) -> list[str]:
    """What follows an instruction, each time it stands in the Dockerfile."""
    text = (HERE / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if not line.startswith("#")]
    found = [line.partition(" ")[2] for line in lines if line.split(" ")[0] == instruction]
    assert found, instruction
    return found


def copied() -> list[str]:
    """What of the project goes into the build, as the Dockerfile has it."""
    words = [part for line in steps("COPY") if "--from" not in line for part in line.split()[:-1]]
    assert len(words) == len(set(words))
    return words


def said() -> list[str]:
    """The command of the container."""
    words: list[str] = json.loads(steps("CMD")[-1])
    return words


def health() -> list[str]:
    words: list[str] = json.loads(steps("HEALTHCHECK")[0].partition("CMD ")[2])
    return words


def filled(environment: Mapping[str, str], shell: Mapping[str, str]) -> dict[str, str]:
    """Compose's variables with their values: ``${A}``, ``${A:-otherwise}``, ``${A:?needed}``."""

    def value(found: re.Match[str]) -> str:
        name, mark, rest = found.groups()
        if shell.get(name):
            return shell[name]
        assert mark != ":?", rest
        return rest or ""

    return {
        name: re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)
        for name, text in environment.items()
    }


def test_what_the_build_copies_is_there_and_its_extras_are_named_so() -> None:
    assert [name for name in copied() if not (ROOT / name).exists()] == []
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = re.search(r'"\.\[([\w,]+)\]"', steps("RUN")[0])
    assert extras is not None
    assert set(extras[1].split(",")) <= set(project["optional-dependencies"])
    assert "constraints.txt" in copied()


def test_the_compose_file_fits_the_dockerfile() -> None:
    build = OURS["build"]
    context = HERE / build["context"]
    assert context.resolve() == ROOT
    assert (context / build["dockerfile"]).resolve() == HERE / "Dockerfile"
    (exposed,) = steps("EXPOSE")
    ours = said()
    assert ours[ours.index("--port") + 1] == exposed
    assert OURS["ports"] == [f"127.0.0.1:{exposed}:{exposed}"]
    assert f":{exposed}/healthz" in health()[-1]
    # Another service is waited for until it answers, and a folder that is mounted is declared.
    waited = {name: each["condition"] for name, each in OURS["depends_on"].items()}
    assert waited == {"postgres": "service_healthy"} and "healthcheck" in BESIDE
    assert {volume.partition(":")[0] for volume in BESIDE["volumes"]} == set(COMPOSE["volumes"])
    # The pool file is mounted where the environment says it is.
    (mounted,) = OURS["volumes"]
    assert mounted == f"./pool.yaml:{OURS['environment']['XROUTER_POOL']}:ro"


def test_open_requests_have_time_to_end() -> None:
    from typer.testing import CliRunner

    from xrouter_lg.cli import app

    told = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    drain = re.search(r"--drain.*?default: ([0-9.]+)", told, re.DOTALL)
    assert drain is not None
    assert int(OURS["stop_grace_period"].removesuffix("s")) > float(drain[1])
    assert steps("STOPSIGNAL") == ["SIGTERM"]


def test_the_server_runs_as_nobody_in_particular_and_writes_nothing() -> None:
    (made,) = [line for line in steps("RUN") if line.startswith("useradd")]
    (user,) = steps("USER")
    assert made.split()[-1] == user != "root"
    assert OURS["read_only"] and OURS["cap_drop"] == ["ALL"]


def test_the_database_that_is_asked_for_is_the_one_that_is_made() -> None:
    own = filled(BESIDE["environment"], {"POSTGRES_PASSWORD": PASSWORD})
    theirs = filled(OURS["environment"], {"POSTGRES_PASSWORD": PASSWORD})
    for name in ("XROUTER_KEYS", "XROUTER_TRACES"):
        url = urlsplit(theirs[name])
        assert (url.username, url.password) == (own["POSTGRES_USER"], own["POSTGRES_PASSWORD"])
        assert (url.hostname, url.path) == ("postgres", f"/{own['POSTGRES_DB']}")
    assert own["POSTGRES_USER"] in BESIDE["healthcheck"]["test"][1]
    with pytest.raises(AssertionError, match="give the database a password"):
        filled(BESIDE["environment"], {})


@contextmanager
def container(
    folder: Path, fake: FakeOpenAIServer, database: str
) -> Iterator[tuple[dict[str, str], subprocess.Popen[str], int]]:
    """The container's command in an empty home of its own, with the compose file's environment:
    only the database's address and the port are other ones."""
    pool = folder / "pool.yaml"
    pool.write_text(
        yaml.safe_dump(pool_data(ModelPool([card(fake, "small"), card(fake, "large")])))
    )
    home = folder / "home"
    home.mkdir()
    there = filled(OURS["environment"], {"POSTGRES_PASSWORD": PASSWORD, "OPENAI_API_KEY": "any"})
    for name in ("XROUTER_KEYS", "XROUTER_TRACES"):
        assert there[name].startswith("postgresql://")
        there[name] = database
    env = {**there, "XROUTER_POOL": str(pool), "HOME": str(home), "PYTHONPATH": str(ROOT)}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [str(port) if word == steps("EXPOSE")[0] else word for word in said()]
    served = subprocess.Popen(words, cwd=home, env=env, stdout=subprocess.PIPE, text=True)
    try:
        yield env, served, port
    finally:
        served.kill()
        served.wait()


def is_healthy(env: Mapping[str, str], port: int) -> bool:
    words = [word.replace(steps("EXPOSE")[0], str(port)) for word in health()]
    return subprocess.run(words, env=env, capture_output=True, check=False).returncode == 0


def when_known(ask: Callable[[], ChatCompletion]) -> ChatCompletion:
    """A running server looks for new keys every five seconds."""
    for _ in range(100):
        with suppress(AuthenticationError):
            return ask()
        time.sleep(0.2)
    return ask()


def test_the_container_s_command_serves_whom_a_key_was_given(
    tmp_path: Path, fake: FakeOpenAIServer, postgres_url: str
) -> None:
    with container(tmp_path, fake, postgres_url) as (env, served, port):
        assert served.stdout is not None
        assert "small, large" in served.stdout.readline()
        url = f"http://127.0.0.1:{port}/v1"
        hi: Any = [{"role": "user", "content": "Hi"}]
        with pytest.raises(AuthenticationError):
            OpenAI(base_url=url, api_key="x", max_retries=20).models.list()
        assert is_healthy(env, port)
        # As the README has it, behind `docker compose ... exec xrouter`.
        (line,) = re.findall(
            r"exec xrouter (xrouter keys add .*)", (HERE / "README.md").read_text()
        )
        key = subprocess.run(
            shlex.split(line), env=env, capture_output=True, text=True, check=True, cwd=tmp_path
        ).stdout.strip()
        client = OpenAI(base_url=url, api_key=key, max_retries=5)
        done = when_known(lambda: client.chat.completions.create(model="xrouter", messages=hi))
        assert done.model == "small"
        said = {"trace_id": done.id, "key": "liked", "score": 1}
        # What is kept is in Postgres: feedback finds the trace of the answer.
        assert client.post("/xrouter/feedback", body=said, cast_to=object)
        served.send_signal(getattr(signal, steps("STOPSIGNAL")[0]))
        assert served.wait(60) in (0, -signal.SIGTERM)
        assert not is_healthy(env, port)
    assert list((tmp_path / "home").iterdir()) == []


@pytest.mark.wheel
@pytest.mark.timeout(900)
def test_the_image_s_build_installs_a_server_out_of_what_it_copies(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    for name in copied():
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(here, source / name)
    make, install = steps("RUN")[0].split("&&")
    at = tmp_path / "app"
    subprocess.run([sys.executable, *shlex.split(make)[1:-1], str(at)], check=True)
    words = shlex.split(install)
    assert (shlex.split(make)[:3], words[0]) == (["python", "-m", "venv"], "/app/bin/pip")
    words = [f"{source}{word[1:]}" if word.startswith(".[") else word for word in words]
    words = [str(source / word) if word == "constraints.txt" else word for word in words]
    pip(*words[1:], python=at / "bin" / "python")
    done = subprocess.run(
        [at / "bin" / said()[0], *said()[1:2], "--help"],
        cwd=tmp_path,
        env={"PATH": f"{at / 'bin'}", "HOME": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for option in said()[2:]:
        assert not option.startswith("--") or option in done.stdout
