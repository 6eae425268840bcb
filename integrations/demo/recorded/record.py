"""Ask three local models every task and keep what they answer:

    python -m integrations.demo.recorded.record

Greedy (temperature 0), one request at a time per model, with the system prompt of
``graphs/support_app.py``, so that an answer is what that app would have got. An interrupted
recording goes on where it stopped. ``python -m integrations.demo.recorded.build`` then judges the
answers and writes the tables.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from graphs.support_app import SYSTEM
from integrations.demo.recorded.generate import tasks
from integrations.demo.recorded.recording import RecordedAnswer, Recording
from integrations.demo.recorded.task import Task
from integrations.llama_cpp.catalogue import WEIGHTS, chat_template_path
from integrations.llama_cpp.server import LlamaCppServer
from integrations.llama_cpp.weights import fetch

MODELS = ("smollm2-135m", "qwen2.5-coder-0.5b", "qwen2.5-coder-1.5b")
"""Weights of the catalogue, cheapest first."""
WORK = Path("runs/demo_recording/answers.jsonl")
CONTEXT = 512
IN_PARALLEL = 4
"""Requests that a server reads and answers in one batch: its weights pass through memory once."""
_REPORT_S = 30.0
_PATIENT = httpx.Timeout(10.0, read=None)
"""A server on this machine answers in the end; a machine that slept in between is no failure."""


def asked(prompt: str) -> list[dict[str, str]]:
    """The conversation in which a question is asked: that of the support app."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]


def ask(client: httpx.Client, base_url: str, model: str, task: Task) -> RecordedAnswer:
    """One greedy answer.

    Raises:
        httpx.HTTPError: the server failed; nothing is recorded.
    """
    body = {
        "model": model,
        "messages": asked(task.prompt),
        "temperature": 0,
        "max_tokens": task.max_tokens,
    }
    started = time.perf_counter()
    response = client.post(f"{base_url}/chat/completions", json=body)
    latency = time.perf_counter() - started
    response.raise_for_status()
    found: Mapping[str, Any] = response.json()
    choice, usage = found["choices"][0], found["usage"]
    return RecordedAnswer(
        prompt_id=task.prompt_id,
        model=model,
        max_tokens=task.max_tokens,
        text=choice["message"]["content"] or "",
        finish_reason=choice["finish_reason"],
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        latency_s=round(latency, 3),
    )


def record(
    wanted: Sequence[Task],
    recording: Recording,
    *,
    models: Sequence[str] = MODELS,
    threads: int = 1,
) -> None:
    """Ask the models whatever is not recorded yet; all of them work side by side.

    Raises:
        LocalModelError: weights or a server could not be had.
        httpx.HTTPError: a server stopped answering; what was recorded is kept.
    """
    with ExitStack() as stack:
        urls = {}
        for model in [m for m in models if missing(wanted, recording, m)]:
            server = LlamaCppServer(
                fetch(model),
                name=model,
                n_ctx=CONTEXT,
                n_parallel=IN_PARALLEL,
                threads=threads,
                batch_threads=threads,
                chat_template=chat_template_path(WEIGHTS[model]),
            )
            urls[model] = stack.enter_context(server).base_url
        ask_all(wanted, recording, urls)


def missing(wanted: Sequence[Task], recording: Recording, model: str) -> list[Task]:
    """The tasks that a model has not answered."""
    return [task for task in wanted if recording.get(task, model) is None]


def ask_all(wanted: Sequence[Task], recording: Recording, urls: Mapping[str, str]) -> None:
    """Ask the model behind each base URL what it has not answered, and keep every answer as it
    arrives. After a failure nothing more is asked.

    Raises:
        httpx.HTTPError: a server failed.
    """
    todo = {model: missing(wanted, recording, model) for model in urls}
    stop = threading.Event()
    with ExitStack() as stack:
        report = stack.enter_context(_Reporter(sum(map(len, todo.values()))))

        def work(task: Task, model: str, client: httpx.Client) -> None:
            if not stop.is_set():
                recording.add(ask(client, urls[model], model, task))
                report.advance(model)

        jobs: list[Future[None]] = []
        for model, tasks_left in todo.items():
            client = stack.enter_context(httpx.Client(timeout=_PATIENT, trust_env=False))
            pool = stack.enter_context(ThreadPoolExecutor(IN_PARALLEL))
            jobs += [pool.submit(work, task, model, client) for task in tasks_left]
        try:
            for job in as_completed(jobs):
                job.result()
        finally:
            # Leaving the block waits for the threads: those that have not begun do nothing.
            stop.set()


class _Reporter:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, whole: int) -> None:
        self._console = Console(stderr=True)
        self._counts: dict[str, int] = {}
        self._whole, self._started, self._told = whole, time.monotonic(), 0.0
        self._lock = threading.Lock()
        self._bar = Progress(
            TextColumn("answers"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._id = self._bar.add_task("answers", total=whole)

    def advance(self, model: str) -> None:
        with self._lock:
            self._counts[model] = self._counts.get(model, 0) + 1
            self._bar.advance(self._id)
            done, now = sum(self._counts.values()), time.monotonic() - self._started
            if not self._console.is_terminal and now - self._told >= _REPORT_S:
                self._told = now
                each = ", ".join(f"{name} {count}" for name, count in self._counts.items())
                left = now / done * (self._whole - done)
                print(
                    f"{done} of {self._whole} in {now:.0f} s, about {left:.0f} s left ({each})",
                    file=sys.stderr,
                    flush=True,
                )

    def __enter__(self) -> _Reporter:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 130 when interrupted, with everything kept."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.demo.recorded.record",
        description="Record the answers of three local models to the generated tasks.",
    )
    parser.add_argument("--work", type=Path, default=WORK, help="grows here (default: %(default)s)")
    parser.add_argument("--limit", type=int, help="only the first so many tasks")
    parser.add_argument("--threads", type=int, default=1, help="threads that generate, per model")
    options = parser.parse_args(arguments)
    wanted = tasks()[: options.limit]
    try:
        record(wanted, Recording(options.work), threads=options.threads)
    except KeyboardInterrupt:
        print("stopped; what is recorded stays, the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
