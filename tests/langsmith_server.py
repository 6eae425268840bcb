"""The loopback LangSmith for tests; it lives with the integration, whose demo uses it too."""

from integrations.langsmith.loopback import INFO, LangSmithServer

__all__ = ["INFO", "LangSmithServer"]
