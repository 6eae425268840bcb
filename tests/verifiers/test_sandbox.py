"""What a hostile program meets in the sandbox. Real processes, real kernel."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from xrouter_lg.verifiers.sandbox import run as sandbox
from xrouter_lg.verifiers.sandbox.bubblewrap import bubblewrap_command
from xrouter_lg.verifiers.sandbox.run import (
    Ended,
    Isolation,
    Limits,
    Program,
    SandboxError,
    best_isolation,
    run,
    why_not_higher,
)

Full = Callable[..., Ended | None]
SHORT = Limits(cpu_s=1, wall_s=8.0)
LEVELS = [level for level in Isolation if best_isolation().covers(level)]
KERNEL = [level for level in LEVELS if level is not Isolation.WEAK]
"""Levels this machine offers; every Linux offers at least ``partial``."""

each_level = pytest.mark.parametrize("level", LEVELS)
each_kernel_level = pytest.mark.parametrize("level", KERNEL)


@each_level
def test_a_program_runs_to_its_end(level: Isolation) -> None:
    ended = run("print('hello')", isolation=level)
    assert (ended.ok, ended.stdout) == (True, "hello\n")


@each_level
def test_the_exit_status_is_the_programs_own(level: Isolation) -> None:
    assert run("import os; os._exit(3)", isolation=level).status == 3


@each_level
def test_an_endless_loop_ends_by_cpu_time(level: Isolation) -> None:
    ended = run("while True: pass", limits=Limits(cpu_s=1, wall_s=30.0), isolation=level)
    assert ended.cause == "cpu"


@each_level
def test_a_sleeping_program_ends_by_the_clock(level: Isolation) -> None:
    limits = Limits(cpu_s=1, wall_s=0.5)
    assert run("import time; time.sleep(60)", limits=limits, isolation=level).cause == "wall"


@each_level
def test_huge_output_ends_the_program_and_is_cut(level: Isolation) -> None:
    limits = Limits(cpu_s=5, output_bytes=1000)
    ended = run("while True: print('x' * 10_000)", limits=limits, isolation=level)
    assert (ended.cause, len(ended.stdout)) == ("output", 1000)


@each_kernel_level
def test_memory_beyond_the_limit_is_refused(level: Isolation) -> None:
    ended = run("x = bytearray(900 << 20)", limits=SHORT, isolation=level)
    assert "MemoryError" in ended.stderr


@each_kernel_level
def test_a_fork_bomb_never_forks(level: Isolation) -> None:
    ended = run("import os\nwhile True: os.fork()", limits=SHORT, isolation=level)
    assert "PermissionError" in ended.stderr


@each_kernel_level
def test_no_program_can_be_started(level: Isolation) -> None:
    ended = run("import subprocess; subprocess.run(['/bin/true'])", limits=SHORT, isolation=level)
    assert "PermissionError" in ended.stderr


@each_kernel_level
def test_threads_are_allowed(level: Isolation) -> None:
    source = "import threading\nt = threading.Thread(target=print, args=(5,))\nt.start()\nt.join()"
    assert run(source, limits=SHORT, isolation=level).stdout == "5\n"


@each_kernel_level
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_UNIX"])
def test_no_socket_opens(level: Isolation, family: str) -> None:
    source = f"import socket; socket.socket(socket.{family})"
    assert "PermissionError" in run(source, limits=SHORT, isolation=level).stderr


@each_kernel_level
def test_a_raw_system_call_opens_no_socket_either(level: Isolation) -> None:
    number = 41 if os.uname().machine == "x86_64" else 198
    source = f"import ctypes; print(ctypes.CDLL(None).syscall({number}, 2, 1, 0))"
    assert run(source, limits=SHORT, isolation=level).stdout == "-1\n"


@each_kernel_level
def test_the_parent_can_not_be_killed(level: Isolation) -> None:
    source = f"import os, signal\nos.kill({os.getpid()}, signal.SIGTERM)"
    assert "PermissionError" in run(source, limits=SHORT, isolation=level).stderr


@each_kernel_level
def test_the_filter_can_not_be_left_by_new_namespaces(level: Isolation) -> None:
    source = "import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))"
    assert run(source, limits=SHORT, isolation=level).stdout == "-1\n"


@each_level
def test_the_parents_environment_stays_outside(
    level: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLANTED_API_KEY", "sk-planted")
    ended = run("import os; print(dict(os.environ))", limits=SHORT, isolation=level)
    assert "planted" not in ended.stdout.lower()


@pytest.fixture(params=[Isolation.BUBBLEWRAP, Isolation.FULL])
def full(request: pytest.FixtureRequest) -> Full:
    """A program at ``full`` or above; None on a machine that refuses the level, as it then must."""
    level: Isolation = request.param

    def full(source: str, limits: Limits = SHORT) -> Ended | None:
        if level in LEVELS:
            return run(source, limits=limits, isolation=level)
        with pytest.raises(SandboxError):
            run(source, limits=limits, isolation=level)
        return None

    return full


def test_nothing_outside_the_scratch_folder_can_be_written(full: Full, tmp_path: Path) -> None:
    full(f"open({str(tmp_path / 'written')!r}, 'w')")
    assert not (tmp_path / "written").exists()


def test_the_interpreters_own_files_are_read_only(full: Full) -> None:
    ended = full(f"open({sys.prefix!r} + '/x', 'w')")
    assert ended is None or "Read-only file system" in ended.stderr


def test_the_users_files_are_not_there(full: Full, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("planted")
    ended = full(f"print(open({str(tmp_path / 'secret')!r}).read())")
    assert ended is None or "FileNotFoundError" in ended.stderr


def test_other_processes_can_not_be_seen(full: Full) -> None:
    ended = full("import os; print([n for n in os.listdir('/proc') if n.isdigit()])")
    # Its supervisor at most, where bubblewrap has put both into one namespace.
    assert ended is None or ended.stdout in ("['1']\n", "[]\n", "['1', '2', '3']\n")


def test_the_supervisor_can_not_be_spoken_for(full: Full) -> None:
    source = """
import glob, os
for path in glob.glob('/proc/[0-9]*/fd/*'):
    if f'/{os.getpid()}/' not in path:
        try:
            os.write(os.open(path, os.O_WRONLY), b'{"status": 0}\\n')
        except OSError:
            pass
raise SystemExit(3)
"""
    ended = full(source)
    assert ended is None or ended.status == 3


def test_the_scratch_folder_is_bounded(full: Full) -> None:
    source = "for i in range(9): open(str(i), 'wb').write(bytes(4 << 20))"
    ended = full(source, Limits(file_mb=16))
    assert ended is None or "No space left" in ended.stderr


def test_disks_can_not_be_reached_as_devices(full: Full) -> None:
    ended = full("import os; print(sorted(os.listdir('/dev')))")
    assert ended is None or ended.stdout == "['null', 'random', 'urandom', 'zero']\n"


def test_leaving_the_context_ends_a_running_program() -> None:
    started = time.monotonic()
    with Program({"main.py": "import time; time.sleep(60)"}, limits=Limits(wall_s=60.0)):
        pass
    assert time.monotonic() - started < 20


def test_the_scratch_folder_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("open('left', 'w').write('x')", limits=SHORT)
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open() -> None:
    run("print(1)")
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        run("print(1)")
    assert len(os.listdir("/dev/fd")) == before


def test_programs_run_side_by_side_from_threads() -> None:
    seen: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: seen.append(run(f"print({n})").stdout))
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == ["0\n", "1\n", "2\n", "3\n"]


def test_a_sandbox_that_can_not_start_is_an_error_and_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("xrouter_lg.verifiers.sandbox.run._CHILD", Path("/nowhere/child.py"))
    with pytest.raises(SandboxError, match="died"):
        run("print(1)", isolation=LEVELS[0])


@pytest.mark.parametrize("field", ["cpu_s", "memory_mb", "file_mb", "output_bytes"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ValueError, match=field):
        Limits(**{field: 0})


def test_without_bubblewrap_its_absence_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "find_bubblewrap", lambda: None)
    with pytest.raises(SandboxError, match="bubblewrap is not installed"):
        run("print(1)", isolation=Isolation.BUBBLEWRAP)
    monkeypatch.setattr(sandbox, "_probed", sandbox._probed.__wrapped__)
    assert best_isolation() is not Isolation.BUBBLEWRAP
    if best_isolation() is Isolation.FULL:
        assert "bubblewrap is not installed" in why_not_higher()


def test_bubblewrap_is_told_what_is_seen_and_what_can_be_written() -> None:
    told = bubblewrap_command(
        "/usr/bin/bwrap",
        ["/usr/bin/python3", "-I", "/here/child.py", "7"],
        script="/here/child.py",
        visible=["/usr", "/opt/env"],
        work_bytes=1 << 20,
    )
    text = " ".join(told)
    assert told[-4:] == ["/usr/bin/python3", "-I", "/supervisor.py", "7"]
    assert "--unshare-net" in told and "--cap-drop ALL" in text and "--die-with-parent" in told
    assert "--ro-bind /opt/env /opt/env" in text and f"--size {1 << 20} --tmpfs /box" in text
    assert told.index("--remount-ro") > max(i for i, part in enumerate(told) if part == "--ro-bind")
    assert "--bind" not in told
