"""Configs: YAML and dotted overrides, refused by name before anything expensive."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config.run import load_config
from xrouter_lg.errors import ConfigurationError

pytestmark = pytest.mark.train

CONFIGS = Path(__file__).parents[2] / "training" / "configs"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text("data: {sources: [a]}\nwarm_start: {epochs: 3}\n")
    return file


SHIPPED = [file for file in CONFIGS.glob("*.yaml") if not file.stem.startswith("accelerate")]


@pytest.mark.parametrize("file", sorted(SHIPPED), ids=lambda file: file.stem)
def test_shipped_configs_are_valid(file: Path) -> None:
    assert load_config(file).output.startswith(f"runs/{file.stem}")


def test_the_headline_config_names_its_sources() -> None:
    assert load_config(CONFIGS / "headline.yaml").data.sources == ("zeroeval", "bfcl_v1")


def test_an_override_without_a_value_empties_a_text(path: Path) -> None:
    left_out = load_config(CONFIGS / "reasoning_gym.yaml")
    assert left_out.data.family_fold == "1/3"
    everything = load_config(CONFIGS / "reasoning_gym.yaml", ["data.family_fold="])
    assert everything.data.family_fold == ""
    with pytest.raises(ConfigurationError, match="it must be int"):
        load_config(path, ["warm_start.epochs="])


def test_a_home_folder_is_one_wherever_a_file_is_named(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    names = ["outcomes", "pool", "output", "base.path", "live.verifiers"]
    names += ["collect.verifiers", "collect.references"]
    config = load_config(path, [f"{name}=~/folder" for name in names])
    found = [config.outcomes, config.pool, config.output, config.base.path, config.live.verifiers]
    found += [config.collect.verifiers, config.collect.references]
    assert found == ["/home/ada/folder"] * len(names)


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
    with pytest.raises(
        ConfigurationError, match=r"can't read the config file .*; see training/configs"
    ):
        load_config(tmp_path / "none.yaml")
