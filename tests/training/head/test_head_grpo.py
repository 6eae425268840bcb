"""GRPO of the family head: TRL trains the numbers that serve, and keeps only what is shown."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from tests.support.logs import CARDS, USD, World, always
from training.config.grpo import GrpoSettings
from training.config.run import DataConfig, RunConfig
from training.config.sampling import Sampling
from training.config.trainer import TrainerConfig
from training.data.inputs import LogPlan, plan
from training.head.net import HeadNet
from training.head.player import HeadPlayer
from training.head.rewards import robust_outcomes
from training.head.stage import _Game, reinforce_head, train_head
from training.run.head import run_head
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.utility import load_head
from xrouter_lg.value.model import Reader

pytestmark = pytest.mark.train

N = 600


def learned(table: OutcomeGrid) -> FromLog:
    return learned_from(table, LessonSettings())


def config(**grpo: object) -> RunConfig:
    settings: dict[str, object] = {
        "steps": 60,
        "prompts_per_step": 32,
        "learning_rate": 0.05,
        "validate_every": 20,
        **grpo,
    }
    return RunConfig(
        family_head_share=1,
        trainer=TrainerConfig(device="cpu"),
        sampling=Sampling(permute=False, cost_weight_low=0.02, cost_weight_high=2.0),
        grpo=GrpoSettings(**settings),  # type: ignore[arg-type]
    )


def quiet(*_: object) -> None:
    pass


def misled(found: FromLog) -> FromLog:
    """A fit that takes requests of one family for those of another."""
    readers = tuple(
        Reader(np.roll(one.weight_F_P, 1, axis=0), np.roll(one.bias_F, 1))
        for one in found.model.readers
    )
    return dataclasses.replace(found, model=dataclasses.replace(found.model, readers=readers))


def taken(found: FromLog, weight: float) -> np.ndarray:
    expected = found.model.expect(found.model.shares(found.features.plane_N_P))
    return expected.utility(weight, found.c_ref_usd).argmax(1)


def test_the_net_expects_what_serving_expects() -> None:
    found = learned(World.of(N).grid())
    net = HeadNet(found.model)
    quality, usd = net(point=torch.from_numpy(found.features.plane_N_P).float())
    expected = found.model.expect(found.model.shares(found.features.plane_N_P))
    np.testing.assert_allclose(quality.detach().numpy(), expected.counted_N_M, atol=6e-3)
    np.testing.assert_allclose(usd.detach().numpy(), expected.usd_N_M, rtol=1e-3)


def test_a_net_that_learned_nothing_gives_the_same_value_model() -> None:
    found = learned(World.of(N).grid())
    again = HeadNet(found.model).into(found.model)
    for one, other in zip(found.model.posteriors, again.posteriors, strict=True):
        np.testing.assert_allclose(one.mean_F_M, other.mean_F_M, atol=1e-6)


def test_one_step_of_trl_moves_every_number_that_decides(tmp_path: Path) -> None:
    found, asked = learned(World.of(N).grid()), config(steps=1, learning_rate=0.01)
    net = HeadNet(misled(found).model)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    player: HeadPlayer = _Game(found, asked).training(net, np.arange(N), asked.grpo)
    train_head(player, asked.grpo, folder=tmp_path)
    assert all((value != before[name]).any() for name, value in net.named_parameters())


def test_rewards_mend_a_fit_that_is_wrong(tmp_path: Path) -> None:
    right = learned(World.of(N).grid())
    wrong = misled(right)
    mended, gain = reinforce_head(wrong, config(anchor=0.0), tmp_path, quiet)
    assert gain.kept, gain
    assert gain.low > 0.0
    same = (taken(mended, 0.3) == taken(right, 0.3)).mean()
    assert same > (taken(wrong, 0.3) == taken(right, 0.3)).mean() + 0.3


def test_a_fit_that_is_right_is_left_as_it_is(tmp_path: Path) -> None:
    found = learned(World.of(N).grid())
    kept, gain = reinforce_head(found, config(steps=20), tmp_path, quiet)
    assert not gain.kept
    assert kept is found


def test_rewards_of_a_log_are_right_on_average_where_it_explored() -> None:
    world = World.of(4000)
    found = learned(world.log(always("large", 4000, 0.5), wrong=0.1))
    score, usd = robust_outcomes(found).ask(
        np.repeat(np.arange(4000), 3), np.tile(np.arange(3), 4000)
    )
    for kind in (0, 1):
        own = world.kind_N == kind
        np.testing.assert_allclose(
            score.reshape(-1, 3)[own].mean(0), world.score_N_M[own].mean(0), atol=0.06
        )
    np.testing.assert_allclose(usd.reshape(-1, 3).mean(0), USD, rtol=0.05)


def test_where_all_is_known_a_reward_is_the_outcome() -> None:
    world = World.of(300)
    outcomes = robust_outcomes(learned(world.grid()))
    score, _ = outcomes.ask(np.arange(300), np.full(300, 2))
    np.testing.assert_allclose(score, world.score_N_M[:, 2])


def written(table: OutcomeGrid, folder: Path) -> Path:
    """A table as files."""
    folder.mkdir()
    rows = [
        {
            **dict(zip(("source", "task", "prompt_id"), table.keys[n], strict=True)),
            "model": CARDS[m],
            "score": None if np.isnan(table.score[n, m]) else table.score[n, m],
            "cost_usd": table.cost[n, m],
            "propensity": table.more["propensity"][n, m],
            "observed_at": table.more["observed_at"][n, m],
            "scored_by": "feedback",
        }
        for n, m in zip(*np.nonzero(np.isfinite(table.cost)), strict=True)
    ]
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    keys = [dict(zip(("source", "task", "prompt_id"), key, strict=True)) for key in table.keys]
    prompts = [{**key, "prompt": text} for key, text in zip(keys, table.prompts, strict=True)]
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    return folder


def test_a_log_becomes_a_checkpoint_that_serves(tmp_path: Path) -> None:
    table = World.of(N).log(always("large", N, 0.4), scored=0.7, wrong=0.1)
    asked = dataclasses.replace(
        config(steps=10),
        outcomes=str(written(table, tmp_path / "log")),
        output=str(tmp_path / "run"),
    )
    work = plan(asked)
    assert isinstance(work, LogPlan)
    manifest = run_head(work, quiet)
    assert manifest is not None
    assert manifest.verdict is not None
    assert manifest.metrics["grpo"]["prompts"] > 50
    head = load_head(manifest, tmp_path / "run" / "checkpoint")
    reading = head.read("hello friend please tell dinner weather")
    assert set(reading.quality) == set(CARDS)
    # A second run finds its stage done.
    again = run_head(work, quiet)
    assert again is not None
    assert again.metrics["grpo"] == manifest.metrics["grpo"]


def test_a_language_model_that_is_given_a_log_is_told_what_learns_from_it(tmp_path: Path) -> None:
    table = World.of(N).log(always("large", N, 0.4))
    folder = written(table, tmp_path / "log")
    from training.data.inputs import _read
    from xrouter_lg.errors import ConfigurationError

    with pytest.raises(ConfigurationError, match="family_head_share=1 learns"):
        _read(folder, RunConfig(outcomes=str(folder), data=DataConfig()))
