"""Tokens per second of a running server, and the USD per million tokens that follow.

A machine that costs ``usd_per_hour`` and handles ``tps`` tokens of a kind per second gives

    price = usd_per_hour / (tps * 3600) * 1e6        USD per million tokens

for each kind: input (prompt tokens evaluated), output (tokens generated) and cached input. The
cached rate is the cached tokens of a repeated prompt over all the seconds the server spent on
that prompt, so it is a lower bound of the rate and an upper bound of the price. The best of
several runs counts, because other programs on the machine only ever slow a run down. One request
at a time: a server that batches several is cheaper per token than this says.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import logging
import os
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from integrations.errors import MeasurementError
from xrouter_lg.files import write_json

from .server import LlamaCppServer
from .weights import weights_dir

DEFAULT_USD_PER_HOUR = 0.08
"""About what a two-core cloud machine without a GPU rents for; state your own."""

_BUSY_LIMIT = 0.25
_PROMPT_WORDS = 120
"""A word is one to two tokens."""
_OUTPUT_TOKENS = 32
"""Generated per run; the end-of-text token is ignored so that all come."""
_RUNS = 3
"""The best rates count."""

_log = logging.getLogger(__name__)

_WORDS = (
    *("river", "stone", "window", "paper", "engine", "garden", "winter", "signal", "copper"),
    *("market", "needle", "harbor", "forest", "letter", "planet", "silver", "bridge", "candle"),
)


@dataclass(frozen=True, slots=True)
class Throughput:
    """Best tokens per second of one request at a time, and when that was measured."""

    input_tps: float
    cached_input_tps: float
    output_tps: float
    measured_at: str
    """ISO date and time, UTC."""


@dataclass(frozen=True, slots=True)
class TokenPrice:
    """USD per million tokens."""

    input: float
    cached_input: float
    output: float


def token_price(throughput: Throughput, *, usd_per_hour: float) -> TokenPrice:
    """Prices by the module's formula, rounded to six decimals.

    Raises:
        ValueError: ``usd_per_hour`` is negative.
    """
    if usd_per_hour < 0:
        raise ValueError(f"usd_per_hour must not be negative, got {usd_per_hour!r}")

    def usd_per_million(tps: float) -> float:
        return round(usd_per_hour / (tps * 3600) * 1e6, 6)

    return TokenPrice(
        input=usd_per_million(throughput.input_tps),
        cached_input=usd_per_million(throughput.cached_input_tps),
        output=usd_per_million(throughput.output_tps),
    )


def measure(base_url: str, *, model: str) -> Throughput:
    """Measure over HTTP, after one warm-up; every run has a prompt of its own.

    Args:
        base_url: a llama.cpp server, with ``/v1``.
        model: the id it serves.

    Raises:
        MeasurementError: the server fails, or its answers carry no llama.cpp timings.
    """
    seed = random.SystemRandom().randrange(2**32)
    words = random.Random(seed)

    def prompt() -> str:
        # Distinct from the first word on: a shared beginning would come from the prompt cache.
        return " ".join(words.choices(_WORDS, k=_PROMPT_WORDS))

    with httpx.Client(timeout=300.0, trust_env=False) as client:
        _timings(client, base_url, model, prompt(), _OUTPUT_TOKENS)
        fresh, repeated = [], []
        for _run in range(_RUNS):
            text = prompt()
            fresh.append(_timings(client, base_url, model, text, _OUTPUT_TOKENS))
            repeated.append(_timings(client, base_url, model, text, 1))
    try:
        input_tps = _best([t["prompt_n"] / t["prompt_ms"] * 1e3 for t in fresh])
        cached_tps = _best([t["cache_n"] / t["prompt_ms"] * 1e3 for t in repeated])
        output_tps = _best([t["predicted_n"] / t["predicted_ms"] * 1e3 for t in fresh])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise MeasurementError(
            f"timings of {base_url!r} are not llama.cpp's ({error!r}): {fresh[0]!r}"
        ) from error
    return Throughput(
        input_tps=input_tps,
        # The cache is never slower than reading the prompt: a lower figure is a disturbed run.
        cached_input_tps=max(cached_tps, input_tps),
        output_tps=output_tps,
        measured_at=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    )


def measured_throughput(
    server: LlamaCppServer, *, sha256: str, cache_dir: Path | None = None, refresh: bool = False
) -> Throughput:
    """:func:`measure` once per weights, core count, thread count and xllamacpp version.

    Kept in ``measurements.json`` beside the weights; ``refresh`` measures again. Figures taken
    while other programs use the processor are returned with a warning and not kept: they can make
    a small model look dearer than a large one.
    """
    path = weights_dir(cache_dir) / "measurements.json"
    version = importlib.metadata.version("xllamacpp")
    key = f"{sha256}/cpus={os.cpu_count()}/threads={server.threads}/xllamacpp={version}"
    known = _load(path)
    if not refresh and key in known:
        try:
            return Throughput(**known[key])
        except TypeError:
            pass  # Written by another version of this package: measure again.
    busy = _busy_share()
    throughput = measure(server.base_url, model=server.name)
    if busy > _BUSY_LIMIT:
        _log.warning(
            "speed of %s measured while other programs use %.0f %% of the processor: prices are "
            "too high; not kept, the next run measures again",
            server.name,
            busy * 100,
        )
        return throughput
    # Read again: another process may have written its own model meanwhile.
    write_json(path, {**_load(path), key: asdict(throughput)}, indent=2)
    return throughput


def _busy_share(seconds: float = 0.3) -> float:
    """Share of all cores in use while this program waits; 0 where the kernel does not say."""
    before = _processor_ticks()
    time.sleep(seconds)
    after = _processor_ticks()
    if before is None or after is None or after[1] <= before[1]:
        return 0.0
    return 1.0 - (after[0] - before[0]) / (after[1] - before[1])


def _processor_ticks() -> tuple[int, int] | None:
    """(idle, total) since boot."""
    try:
        first_line = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0]
    except OSError:
        return None
    ticks = [int(field) for field in first_line.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def _timings(
    client: httpx.Client, base_url: str, model: str, prompt: str, max_tokens: int
) -> dict[str, Any]:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": True,
    }
    try:
        answer = client.post(f"{base_url}/chat/completions", json=body)
        answer.raise_for_status()
        timings = answer.json().get("timings")
    except (httpx.HTTPError, ValueError) as error:
        raise MeasurementError(f"{base_url!r} failed while being measured: {error!r}") from error
    if not isinstance(timings, dict):
        raise MeasurementError(
            f"{base_url!r} answers without 'timings'; prices can be measured of a llama.cpp "
            "server only, state the prices of others in the pool file"
        )
    return timings


def _best(rates: list[float]) -> float:
    best = max(rates)
    if best <= 0:
        raise MeasurementError(f"no usable rate among {rates!r}; run it again with refresh")
    return best


def _load(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
