"""What texts ask of training: batches of like length, a rate of its own for a new head, enough steps for few rows."""

from collections import Counter

import numpy as np
import pytest
from torch import nn

from cluster.recipe import EngineSection, Stage
from jobs.training.engine import Engine, grouped
from jobs.training.sampler import WINDOW, bucketed, order


def test_bucketing_keeps_the_rows_of_every_window_and_puts_like_lengths_together() -> None:
    rng = np.random.default_rng(0)
    length, plan = rng.integers(5, 60, 500), rng.integers(0, 500, (2 * WINDOW + 5, 16))
    alike = bucketed(plan, length, seed=1)
    for start in range(0, len(plan), WINDOW):
        window = slice(start, start + WINDOW)
        assert Counter(alike[window].ravel().tolist()) == Counter(plan[window].ravel().tolist())
    padded = [int((length[p].max(1) * 16).sum()) for p in (plan, alike)]
    assert padded[1] < 0.65 * padded[0]
    assert np.array_equal(alike, bucketed(plan, length, seed=1))
    assert length[alike].mean(1)[:WINDOW].tolist() != sorted(length[alike].mean(1)[:WINDOW].tolist())


def test_the_longest_fitting_prefix_gives_a_parameter_its_rate() -> None:
    module = nn.ModuleDict({"network": nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})})
    module["network"]["body"].bias.requires_grad_(False)
    groups = grouped(module, {"head": 30.0, "head.bias": 5.0})
    assert {factor: len(own) for factor, own in groups.items()} == {30.0: 1, 5.0: 1, 1.0: 1}
    assert groups[5.0][0] is module["network"]["head"].bias


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_the_engine_gives_every_group_its_factor_on_the_rate() -> None:
    module = nn.ModuleDict({"network": nn.ModuleDict({"head": nn.Linear(2, 2), "body": nn.Linear(2, 2)})})
    stage = Stage.parse({"name": "s", "epochs": 1, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}],
                         "rate_factors": {"head": 30}})  # fmt: skip
    engine = Engine(module, EngineSection(), stage, 4, 1)
    engine.set_rate(0.001)
    assert [group["lr"] for group in engine.optimizer.param_groups] == pytest.approx([0.03, 0.001])
    engine.close()


def test_few_rows_still_make_the_least_number_of_steps() -> None:
    values = {"name": "s", "epochs": 2, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}], "min_steps": 30}
    few, many = (order(Stage.parse(values), np.zeros(rows, int), ["all"], 8, seed=0) for rows in (20, 400))
    assert few.shape == (30, 8)
    assert many.shape == (100, 8)
