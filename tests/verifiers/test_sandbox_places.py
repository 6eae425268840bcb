"""Wherever the interpreter lies, and whatever the kernel refuses, the sandbox does what it can."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from xrouter_lg.verifiers.sandbox.run import Isolation, best_isolation

ROOT = Path(__file__).resolve().parents[2]

needs_full = pytest.mark.skipif(
    not best_isolation().covers(Isolation.FULL), reason="this machine has no full isolation"
)
linux = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"),
    reason="the kernel's system call filter is written for Linux on x86_64 and aarch64",
)

FULL = """\
from xrouter_lg.verifiers.sandbox.run import run
ended = run("import json, sys; open('x', 'w'); print(sys.prefix)", isolation="full")
print(ended.stdout or ended.stderr)
"""
READ_ONLY = """\
import sys
from xrouter_lg.verifiers.sandbox.run import run
print(run(f"open({sys.prefix!r} + '/x', 'w')", isolation="full").stderr)
"""
REFUSED = f"""\
import ctypes, os, struct
# What a container's filter does: unshare (272, 97) answers EPERM.
number = 272 if os.uname().machine == "x86_64" else 97
steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
spec = Filter(len(steps), ctypes.addressof(code))
assert libc.prctl(22, 2, ctypes.byref(spec), 0, 0) == 0
os.environ["PATH"] = ""  # bubblewrap makes its namespaces by another call
import sys
sys.path.insert(0, {str(ROOT)!r})
from xrouter_lg.verifiers import build
TESTS = "assert add(1, 2) == 3"
RIGHT, WRONG = "def add(a, b): return a + b", "def add(a, b): return 0"
"""


def python(
    source: str, executable: str | Path = sys.executable, checkout: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    command = [str(executable), "-c", source]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, cwd=checkout
    )


@pytest.fixture
def below_tmp() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


def environment_in(folder: Path) -> Path:
    """A virtual environment that imports this one's packages; its interpreter."""
    venv.EnvBuilder(symlinks=True).create(folder)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "lib" / version / "site-packages"
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"


@needs_full
def test_an_interpreter_below_tmp_is_isolated_in_full(below_tmp: Path) -> None:
    executable = environment_in(below_tmp / "checkout" / ".venv")
    assert python(FULL, executable).stdout.strip() == str(below_tmp / "checkout" / ".venv")


@needs_full
def test_an_interpreter_below_tmp_can_not_be_written_to(below_tmp: Path) -> None:
    executable = environment_in(below_tmp / ".venv")
    assert "Read-only file system" in python(READ_ONLY, executable).stdout


@needs_full
def test_a_checkout_below_tmp_judges_code_in_full_isolation(below_tmp: Path) -> None:
    executable = environment_in(below_tmp / ".venv")
    below_tmp.joinpath("xrouter_lg").symlink_to(ROOT / "xrouter_lg")
    source = "from xrouter_lg.verifiers.sandbox.run import best_isolation\nprint(best_isolation())"
    assert python(source, executable, below_tmp).stdout in ("full\n", "bubblewrap\n")


@needs_full
def test_an_interpreter_behind_symbolic_links_is_isolated_in_full(below_tmp: Path) -> None:
    environment_in(below_tmp / "real" / "deep" / ".venv")
    below_tmp.joinpath("link").symlink_to("second")
    below_tmp.joinpath("second").symlink_to(below_tmp / "real" / "deep")
    linked = below_tmp / "link" / ".venv"
    assert python(FULL, linked / "bin" / "python").stdout.strip().endswith("/.venv")


@needs_full
def test_a_temporary_folder_inside_the_environment_is_isolated_in_full(
    below_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executable = environment_in(below_tmp / ".venv")
    below_tmp.joinpath(".venv", "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(below_tmp / ".venv" / "tmp"))
    assert python(FULL, executable).stdout.strip() == str(below_tmp / ".venv")


@linux
def test_code_is_judged_where_namespaces_are_refused() -> None:
    ended = python(
        REFUSED + "v = build('unit_tests')\nprint(v(RIGHT, TESTS).score, v(WRONG, TESTS).score)"
    )
    assert ended.stdout == "1.0 0.0\n"


@linux
def test_what_stays_open_without_namespaces_is_said_once_and_why() -> None:
    ended = python(REFUSED + "for _ in range(2): build('unit_tests')(RIGHT, TESTS)")
    assert ended.stderr.count("can read and write the files of this user") == 1
    assert "unshare: Operation not permitted" in ended.stderr


@linux
def test_full_isolation_can_be_demanded_and_its_lack_names_the_cause() -> None:
    source = "print(build({'verifier': 'unit_tests', 'isolation': 'full'})(RIGHT, TESTS))"
    ended = python(REFUSED + source)
    assert "score=None" in ended.stdout and "unshare: Operation not permitted" in ended.stdout
    assert ended.stderr == ""


@needs_full
def test_nothing_is_said_where_isolation_is_full() -> None:
    source = REFUSED.split("libc =")[0] + REFUSED[REFUSED.index("import sys") :]
    assert python(source + "build('unit_tests')(RIGHT, TESTS)").stderr == ""
