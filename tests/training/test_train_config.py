"""Configs: YAML and dotted overrides, refused by name before anything expensive."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import load_config
from xrouter_lg.errors import ConfigurationError

pytestmark = pytest.mark.train

HEADLINE = Path(__file__).parents[2] / "training" / "configs" / "headline.yaml"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text("data: {sources: [a]}\nwarm_start: {epochs: 3}\n")
    return file


def test_the_shipped_config_is_valid() -> None:
    assert load_config(HEADLINE).data.sources == ("zeroeval", "bfcl_v1")


def test_overrides_win_and_are_read_as_yaml(path: Path) -> None:
    config = load_config(
        path, ["warm_start.learning_rate=2e-4", "base.threads=1", "outcomes=x", "data.models=[m]"]
    )

    assert config.warm_start.epochs == 3
    assert config.warm_start.learning_rate == 2e-4
    assert config.base.threads == 1
    assert config.outcomes == "x"
    assert config.data.models == ("m",)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("warm_start.epoch=1", "unknown key 'warm_start.epoch'; known: epochs"),
        ("warm_start.epochs=two", "warm_start.epochs is 'two'; it must be int"),
        ("warm_start.epochs=true", "it must be int"),
        ("weights=full", "one of 'adapter', 'merged'"),
        ("data.sources=a", "must be a list of texts"),
        ("warm_start=3", "must be a mapping"),
        ("weights", "no key=value"),
        ("weights.x.y=1", "no keys below it|must be"),
    ],
)
def test_a_bad_override_is_refused_by_name(path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_config(path, [override])


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no config file"):
        load_config(tmp_path / "none.yaml")
