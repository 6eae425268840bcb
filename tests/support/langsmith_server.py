"""The loopback LangSmith for tests; it lives with the integration, whose demo uses it too."""

from xrouter_lg.testing.langsmith.server import INFO, LangSmithServer

__all__ = ["INFO", "LangSmithServer"]
