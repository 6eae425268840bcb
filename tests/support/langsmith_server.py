"""The loopback LangSmith, and its client's memory of the environment."""

from typing import Any

from langsmith.utils import get_env_var

from xrouter_lg.testing.langsmith.server import INFO, LangSmithServer

__all__ = ["INFO", "LangSmithServer", "forget_variables"]


def forget_variables() -> None:
    """LangSmith's client reads each environment variable once: let it read them anew."""
    cached: Any = get_env_var
    cached.cache_clear()
