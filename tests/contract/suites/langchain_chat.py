"""LangChain's own standard suites, on ``ChatXRouter`` and beside it on ``ChatOpenAI``.

Both speak to the same fake provider. ``tests/contract/test_langchain_suites.py`` runs this file and
compares; it is no test file of its own, for most of what it collects is LangChain's.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from tests.support.obliging import obliging
from xrouter_lg import ChatXRouter
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

loading = import_module("langchain_core.load.load")  # a function hides it in its package

SERVER = FakeOpenAIServer(
    [
        FakeModel(name=name, reply=obliging, prompt_tokens=30, completion_tokens=12)
        for name in ("small", "large")
    ]
)


@pytest.fixture(scope="session", autouse=True)
def served() -> Iterator[None]:
    with SERVER:
        yield


@pytest.fixture
def snapshot() -> Any:
    """Ports differ from run to run; what is written is pinned in tests/chat."""
    return lambda **_: ANY


def pool_data() -> dict[str, Any]:
    price = {"input": 1, "output": 2}
    return {
        "models": [
            {"name": name, "model": name, "base_url": SERVER.base_url, "price": price}
            for name in ("small", "large")
        ]
    }


OF_CARDS = ("api_key", "max_retries")


class _Plain:
    @property
    def chat_model_class(self) -> type[ChatOpenAI]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "small",
            "base_url": SERVER.base_url,
            "api_key": "key",
            "stream_usage": True,
        }

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        variables = {"OPENAI_API_KEY": "key", "OPENAI_API_BASE": SERVER.base_url}
        return variables, {"model": "small"}, {"openai_api_base": SERVER.base_url}


class _Routed:
    @property
    def chat_model_class(self) -> type[ChatXRouter]:
        return ChatXRouter

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"pool": pool_data(), "policy": "cheapest"}

    @property
    def standard_chat_model_params(self) -> dict[str, Any]:
        """Keys and retries are the cards'."""
        given = super().standard_chat_model_params  # type: ignore[misc]
        return {name: value for name, value in given.items() if name not in OF_CARDS}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        file = Path(__file__).with_name("pool.yaml")
        return {"XROUTER_POOL": str(file), "XROUTER_POLICY": "cheapest"}, {}, {"policy": "cheapest"}

    @pytest.fixture(autouse=True)
    def listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """``allowed_objects="all"`` means all that LangChain lists, which are its partners; others
        are loaded with ``allowed_objects=[ChatXRouter]``."""
        own = tuple(ChatXRouter.lc_id())
        monkeypatch.setitem(loading.ALL_SERIALIZABLE_MAPPINGS, own, own)
        monkeypatch.setattr(loading, "_default_class_paths_cache", {})


class _Both:
    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return False

    @property
    def model_override_value(self) -> str:
        return "large"


class TestPlainUnit(_Both, _Plain, ChatModelUnitTests):
    pass


class TestRoutedUnit(_Both, _Routed, ChatModelUnitTests):
    pass


class TestPlainIntegration(_Both, _Plain, ChatModelIntegrationTests):
    pass


class TestRoutedIntegration(_Both, _Routed, ChatModelIntegrationTests):
    pass
