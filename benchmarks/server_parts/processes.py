"""Servers under test, each in a process of its own, and what the kernel tells of them."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
XROUTER = (sys.executable, "-c", "from xrouter_lg.cli import main; main()")
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
_START_S = 90.0


@contextlib.contextmanager
def process(command: list[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of this checkout, ended afterwards."""
    with subprocess.Popen(command, text=True, cwd=ROOT, **options) as started:
        try:
            yield started
        finally:
            started.terminate()


@contextlib.contextmanager
def worker(latency_ms: int) -> Iterator[tuple[str, int]]:
    """URL (without ``/v1``) and process of a fake worker."""
    command = [sys.executable, "-m", "xrouter_lg.testing", "--latency-ms", str(latency_ms)]
    with process(command, stdout=subprocess.PIPE) as started:
        assert started.stdout is not None
        yield started.stdout.readline().strip().removesuffix("/v1"), started.pid


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str) -> None:
    """Return when a server answers.

    Raises:
        OSError: it does not in time.
    """
    until = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def memory_mb(pid: int) -> float:
    """What a process and those that it started hold in memory."""
    pages = [int((each / "statm").read_text().split()[1]) for each in _family(pid)]
    return sum(pages) * _PAGE / 1e6


def cpu_s(pid: int) -> float:
    """Processor time of a process and of those that it started, so far."""
    stats = [(each / "stat").read_text().rpartition(")")[2].split() for each in _family(pid)]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICKS


def percentile_99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _family(pid: int) -> Iterator[Path]:
    pids = [pid]
    while pids:
        each = pids.pop()
        with contextlib.suppress(OSError):
            children = Path(f"/proc/{each}/task/{each}/children").read_text().split()
            pids += [int(child) for child in children]
            yield Path(f"/proc/{each}")
