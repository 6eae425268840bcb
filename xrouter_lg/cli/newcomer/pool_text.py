"""A first pool file, commented: of providers' models, of those an app has called, of local ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xrouter_lg.cli.newcomer.providers import Suggestion
    from xrouter_lg.cli.newcomer.used import UsedModel
    from xrouter_lg.pool.profiles import Profile


def pool_text(found: list[Suggestion]) -> str:
    """A pool file of these models; without any, of two local ones."""
    if not found:
        return _local_text()
    names = _names([(one.model, one.provider.name) for one in found])
    middle = sorted(range(len(found)), key=lambda at: found[at].price.output)[len(found) // 2]
    lines = [
        "# A pool of models, written by `xrouter init`; every card may be changed or dropped.",
        *_about(),
        f"default: {names[middle]:<24} # where a failed policy falls to",
        "models:",
    ]
    for name, one in zip(names, found, strict=True):
        lines += _card(name, one)
    return "\n".join(lines) + "\n"


def used_text(found: Sequence[UsedModel], where: str, left_out: int) -> str:
    """A pool file of the models that an app has called."""
    names = _names([(one.model, one.provider) for one in found])
    lines = [
        f"# A pool of the models that were called in {where}, the most called first; written by",
        "# `xrouter init`. Every card may be changed or dropped.",
        *_about(),
        f"default: {names[0]:<24} # where a failed policy falls to: the most called",
        "models:",
    ]
    for name, one in zip(names, found, strict=True):
        lines += _used_card(name, one)
    if left_out:
        lines.append(f"# {left_out} models that were called less often are left out.")
    return "\n".join(lines) + "\n"


def _about() -> list[str]:
    from xrouter_lg.pool.price_list import price_list

    return [
        "# A key is named by its environment variable and never stands here.",
        f"# Prices are USD per million tokens out of {price_list()}, which also counts caches,",
        "# tiers and reasoning; a `price:` of your own goes before it.",
        "# `xrouter pool check FILE --live` calls each card once.",
        "",
    ]


def _names(models: Sequence[tuple[str, str | None]]) -> list[str]:
    from xrouter_lg.pool.bare import free_name

    names: list[str] = []
    for place, (model, maker) in enumerate(models, start=1):
        names.append(free_name(model, maker, set(names), place))
    return names


def _used_card(name: str, one: UsedModel) -> list[str]:
    from xrouter_lg.cli.newcomer.providers import PROVIDERS

    known = next((own for own in PROVIDERS if own.name == one.provider), None)
    told = f"{one.calls:,} calls"
    if one.input_tokens is not None and one.output_tokens is not None:
        told += f", {one.input_tokens:,.0f} tokens in and {one.output_tokens:,.0f} out on average"
    if one.usd is not None:
        told += f", about USD {one.usd:.6f} each"
    price = one.price
    # A trace has the model's name, and not where it was served.
    asked = one.model if one.provider is None else f"{one.provider}:{one.model}"
    lines = [f"  # {told}", f"  - name: {name}", f"    model: {_quoted(asked)}"]
    if known is not None:
        lines.append(f"    api_key_env: {known.variable}")
    if price is not None:
        lines.append(f"    # price: {{input: {price.input}, output: {price.output}}}")
    else:
        lines += [
            "    # no published price: give your own, or its cost stays unknown",
            "    # price: {input: 0, output: 0}",
        ]
    if price is None or known is None:
        lines.append(
            f"    {'' if one.provider is None else '# '}base_url: http://127.0.0.1:8000/v1"
            "  # where it is served, if not by its provider"
        )
    return lines + _able(one.profile)


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)


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
    return lines + _able(one.profile)


def _able(profile: Profile | None) -> list[str]:
    lines: list[str] = []
    if profile is None:
        return lines
    able = ", ".join(sorted(can for can, has in profile.capabilities.items() if has))
    if profile.context_window is not None:
        lines.append(f"    # context_window: {profile.context_window}")
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
