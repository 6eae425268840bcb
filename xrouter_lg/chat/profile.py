"""What a pool can do, as LangChain's profile of one model."""

from __future__ import annotations

from langchain_core.language_models.model_profile import ModelProfile

from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.profiles import PROFILE_FIELDS


def profile_of_pool(pool: ModelPool) -> ModelProfile:
    """The widest window and every ability of any card: a request that needs one reaches those
    cards alone that have it. What nobody knows of some cards and no card is known to have is left
    out. Windows are in tokens."""
    windows = [card.context_window for card in pool if card.context_window is not None]
    answers = [card.max_output_tokens for card in pool if card.max_output_tokens is not None]
    profile = ModelProfile(text_inputs=True, text_outputs=True)
    if windows:
        profile["max_input_tokens"] = max(windows)
    if answers:
        profile["max_output_tokens"] = max(answers)
    for ours, theirs in PROFILE_FIELDS.items():
        known = [card.can(ours) for card in pool]
        if any(known) or None not in known:
            profile[theirs] = any(known)  # type: ignore[literal-required]
    return profile
