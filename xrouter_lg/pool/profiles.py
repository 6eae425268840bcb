"""What LangChain's profiles say of a published model: its window, and what it can read and do."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.pool.names import usual_names

PROFILE_FIELDS = {
    "tools": "tool_calling",
    "structured_output": "structured_output",
    "reasoning": "reasoning_output",
    "vision": "image_inputs",
    "files": "pdf_inputs",
    "audio": "audio_inputs",
    "video": "video_inputs",
}
"""What a profile calls each capability of a card."""
# LangChain's names of providers whose models are listed by another package.
_PACKAGES = {
    "azure_openai": "langchain_openai",
    "google_vertexai": "langchain_google_genai",
    "anthropic_bedrock": "langchain_anthropic",
}

_NO_MAKERS = frozenset(
    {"core", "classic", "community", "experimental", "tests", "aws", "google_vertexai"}
)
"""Packages of LangChain's that belong to no provider, or in which several speak their own way."""


@dataclass(frozen=True, slots=True)
class Profile:
    """``context_window`` in tokens; a capability that the profile does not mention is left out."""

    context_window: int | None
    capabilities: Mapping[str, bool]


@lru_cache(maxsize=512)
def profile_of(provider: str | None, model: str) -> Profile | None:
    """The profile of a provider's model out of its installed package, which ships them; None where
    there is none."""
    listed = _listed(_PACKAGES.get(provider, f"langchain_{provider}")) if provider else {}
    found = next((it for name in (model, *usual_names(model)) if (it := listed.get(name))), None)
    if not isinstance(found, Mapping):
        return None
    window = found.get("max_input_tokens")
    return Profile(
        context_window=window if isinstance(window, int) and window > 0 else None,
        capabilities={
            ours: bool(found[theirs]) for ours, theirs in PROFILE_FIELDS.items() if theirs in found
        },
    )


def maker_of(model: BaseChatModel) -> str | None:
    """LangChain's name of the provider that a chat model's class was made for: its package's, of
    the class or of one that it is a subclass of; else what the model says of itself."""
    for kind in type(model).__mro__:
        package = kind.__module__.partition(".")[0]
        made_by = package.removeprefix("langchain_")
        if made_by != package and made_by not in _NO_MAKERS:
            return made_by
    provider = model._get_ls_params().get("ls_provider")
    return provider if isinstance(provider, str) else None


@lru_cache(maxsize=32)
def _listed(package: str) -> Mapping[str, Any]:
    """A package's profiles, read without importing it: building a pool must stay quick."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return {}
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / "data" / "_profiles.py"
        if file.is_file():
            profiles = runpy.run_path(str(file)).get("_PROFILES")
            return profiles if isinstance(profiles, Mapping) else {}
    return {}
