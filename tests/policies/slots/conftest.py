"""A tiny real model, its adapter, the two merged, and the policy of them.

Whoever has no torch collects this file too: what needs it is imported by the fixtures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from xrouter_lg.policies.slots.policy import CheckpointPolicy


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_model import write_tiny_base

    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import tiny_checkpoint

    return tiny_checkpoint.write(tmp_path_factory.mktemp("out") / "adapter", base_folder)


@pytest.fixture(scope="module")
def merged(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support import tiny_checkpoint

    folder = tmp_path_factory.mktemp("out") / "merged"
    return tiny_checkpoint.write(folder, base_folder, weights="merged")


@pytest.fixture
def policy(adapter: Path, base_folder: Path) -> Iterator[CheckpointPolicy]:
    policy = CheckpointPolicy(adapter, base=base_folder)
    yield policy
    policy.close()
