"""``xrouter init``: a first pool file, from the keys that are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import command, print_json

if TYPE_CHECKING:
    from xrouter_lg.cli.newcomer.providers import Suggestion

app = typer.Typer()


@command(app, "init", example="init --dry-run")
def init(
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("pool.yaml"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the file and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented pool file with models of each provider whose key is in the environment.

    Keys are looked for by the names of their variables and never shown or written. Prices are those
    of genai-prices, abilities those of LangChain's model profiles. Without any key the file has two
    local models and says what to set. A file that is there is never overwritten; nothing is called.

    Exit code 0: written, or shown; 2: the file is there already, or can't be written.
    """
    import yaml

    from xrouter_lg.cli.newcomer.providers import PROVIDERS, suggested
    from xrouter_lg.errors import ConfigurationError
    from xrouter_lg.pool.pool import ModelPool

    if not dry_run and output.exists():
        raise ConfigurationError(
            f"{str(output)!r} is there already and is left as it is; write another with --output, "
            "or look at what would be written with --dry-run"
        )
    there = [provider for provider in PROVIDERS if provider.key_set]
    text = pool_text([one for provider in there for one in suggested(provider)])
    pool = ModelPool.from_dict(yaml.safe_load(text))
    if not dry_run:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    if as_json:
        print_json(
            {
                "output": str(output),
                "written": not dry_run,
                "keys": [provider.variable for provider in there],
                "cards": pool.names,
                "default": pool.default,
                "to_install": _to_install([p.package for p in there if not p.installed]),
                "text": text,
            }
        )
        return
    if dry_run:
        typer.echo(text, nl=False)
        return
    keys = ", ".join(provider.variable for provider in there) or "no provider's key found"
    typer.echo(f"{output}: {len(pool)} cards ({keys}); default {pool.default}")
    if packages := [provider.package for provider in there if not provider.installed]:
        typer.echo(f"install what is missing: {_to_install(packages)}")
    typer.echo(f"next: xrouter pool check {output}{' --live' if there else ''}")


def _to_install(packages: list[str]) -> str | None:
    return f"pip install {' '.join(packages)}" if packages else None


def pool_text(found: list[Suggestion]) -> str:
    """A pool file of these models; without any, of two local ones."""
    if not found:
        return _local_text()
    from xrouter_lg.pool.pricing import price_list

    names = _names(found)
    middle = sorted(range(len(found)), key=lambda at: found[at].price.output)[len(found) // 2]
    lines = [
        "# A pool of models, written by `xrouter init`; every card may be changed or dropped.",
        "# A key is named by its environment variable and never stands here.",
        f"# Prices are USD per million tokens out of {price_list()}, which also counts caches,",
        "# tiers and reasoning; a `price:` of your own goes before it.",
        "# `xrouter pool check FILE --live` calls each card once.",
        "",
        f"default: {names[middle]:<24} # where a failed policy falls to",
        "models:",
    ]
    for name, one in zip(names, found, strict=True):
        lines += _card(name, one)
    return "\n".join(lines) + "\n"


def _names(found: list[Suggestion]) -> list[str]:
    from xrouter_lg.pool.bare import free_name

    names: list[str] = []
    for place, one in enumerate(found, start=1):
        names.append(free_name(one.model, one.provider.name, set(names), place))
    return names


def _card(name: str, one: Suggestion) -> list[str]:
    lines = [
        f"  - name: {name}",
        f"    model: {one.provider.name}:{one.model}",
        f"    api_key_env: {one.provider.variable}",
        f"    description: {one.use}",
        f"    # price: {{input: {one.price.input}, output: {one.price.output}}}",
    ]
    if one.profile is None:
        lines.append(f"    # not installed yet: pip install {one.provider.package}")
        return lines
    able = ", ".join(sorted(can for can, has in one.profile.capabilities.items() if has))
    window = one.profile.context_window
    if window is not None:
        lines.append(f"    # context_window: {window}")
    if able:
        lines.append(f"    # capabilities: [{able}]")
    return lines


def _local_text() -> str:
    from xrouter_lg.cli.newcomer.providers import PROVIDERS

    listed = ", ".join(provider.variable for provider in PROVIDERS)
    head, _, tail = listed.rpartition(", XAI_API_KEY")
    return f"""\
# A pool of two local models, written by `xrouter init`: no provider's key was found.
# For hosted models set one or more of these, then run `xrouter init --output NEW.yaml`:
#   {head},
#   XAI_API_KEY{tail}
#
# As it stands it is for any two OpenAI-compatible servers (llama.cpp, vLLM, Ollama). To try it
# without a model, start two that answer the same sentence to everything:
#   python -m xrouter_lg.testing --port 8101
#   python -m xrouter_lg.testing --port 8102

default: large                       # where a failed policy falls to
models:
  - name: small                      # becomes the graph node call_small
    model: small                     # or a provider's, such as openai:gpt-5-nano
    base_url: http://127.0.0.1:8101/v1
    price: {{input: 0, output: 0}}     # USD per million tokens; your own machine's worth
    description: short answers, simple facts
  - name: large
    model: large
    base_url: http://127.0.0.1:8102/v1
    price: {{input: 0, output: 0}}
    description: reasoning, several steps, code
"""
