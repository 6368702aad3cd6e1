"""What a training run is made of: packed tables, the order of batches, and balanced loss terms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RecipeError
from cluster.recipe import Phase, Stage, Term
from jobs.training import table
from jobs.training.engine import schedule_at
from jobs.training.sampler import order
from jobs.training.weighting import Balance

LOSS = [Term(name="cross_entropy")]


def stage(**fields: object) -> Stage:
    return Stage.parse({"name": "s", "epochs": 2.0, "learning_rate": 0.1, "losses": [LOSS[0].model_dump()], **fields})


def test_a_packed_table_comes_back_with_its_shapes_and_values_and_without_a_copy(tmp_path: Path) -> None:
    columns = {"a": np.arange(24, dtype=np.int16).reshape(4, 2, 3), "b": np.ones((4, 1), np.float16), "c": np.arange(4)}
    table.write(tmp_path / "t.arrow", columns)
    back = table.read(tmp_path / "t.arrow")
    assert table.rows(back) == 4
    for name, values in columns.items():
        np.testing.assert_array_equal(back[name], values)
        assert back[name].dtype == values.dtype and not back[name].flags.owndata


def test_without_a_curriculum_every_row_is_seen_once_per_epoch() -> None:
    plan = order(stage(), np.zeros(32, int), ["all"], 8, seed=3)
    assert plan.shape == (8, 8)
    for epoch in (plan[:4], plan[4:]):
        assert sorted(epoch.reshape(-1)) == list(range(32))


@given(st.integers(0, 2**31))
def test_the_same_seed_gives_the_same_batches(seed: int) -> None:
    slices = np.arange(40) % 2
    phases = [Phase(share=1, slices={"easy": 1.0}), Phase(share=3, slices={"easy": 1.0, "hard": 3.0})]
    graded = stage().model_copy(update={"curriculum": phases})
    first, again = (order(graded, slices, ["easy", "hard"], 4, seed) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert set(slices[first[:5].reshape(-1)]) == {0}  # the first quarter is easy


def test_slices_are_drawn_by_their_weights() -> None:
    phases = [Phase(share=1, slices={"easy": 1.0, "hard": 3.0})]
    plan = order(
        stage(epochs=100.0).model_copy(update={"curriculum": phases}), np.arange(40) % 2, ["easy", "hard"], 4, 0
    )
    assert (plan % 2).mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("slices", [{"nosuch": 1.0}, {"empty": 1.0}])
def test_a_curriculum_over_rows_that_are_not_there_is_refused(slices: dict[str, float]) -> None:
    graded = stage().model_copy(update={"curriculum": [Phase(share=1, slices=slices)]})
    with pytest.raises(RecipeError):
        order(graded, np.zeros(8, int), ["all", "empty"], 4, 0)


def test_terms_of_very_different_size_train_at_the_shares_of_their_weights() -> None:
    balance = Balance([0.7, 0.3])
    rng = np.random.default_rng(0)
    for _ in range(300):
        terms = [torch.tensor(rng.uniform(900, 1100)), torch.tensor(rng.uniform(0.0009, 0.0011))]
        balance(terms, torch.stack(terms))
    assert balance.mean_shares == pytest.approx([0.7, 0.3], abs=0.01)


def test_the_sum_keeps_the_scale_of_its_first_term() -> None:
    # Divided by its own size instead, a loss of 0.01 would pull as hard as one of 3 until the very last step.
    balance = Balance([0.7, 0.3])
    for size in (3.0, 0.01):
        for _ in range(400):
            terms = [torch.tensor(size), torch.tensor(1000 * size)]
            total = balance(terms, torch.stack(terms))
        assert total.item() == pytest.approx(size, rel=0.1)


def test_a_restored_balance_goes_on_as_the_uninterrupted_one() -> None:
    terms = [torch.rand(2, dtype=torch.float64) for _ in range(20)]
    whole = Balance([0.7, 0.3])
    results = [whole(list(t), t).item() for t in terms]
    first = Balance([0.7, 0.3])
    for t in terms[:10]:
        first(list(t), t)
    second = Balance([0.7, 0.3], first.means.tolist())
    assert [second(list(t), t).item() for t in terms[10:]] == results[10:]


@pytest.mark.parametrize(
    ("schedule", "last"), [("constant", 0.1), ("linear", 0.1 / 90), ("cosine", 0.0), ("one_cycle", 0.0)]
)
def test_the_rate_rises_to_its_peak_and_falls_by_its_schedule(schedule: str, last: float) -> None:
    shaped = stage(schedule=schedule, warmup_share=0.1)
    rates = [schedule_at(shaped, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(0.1) and rates.index(max(rates)) in (9, 10)
    assert rates[-1] == pytest.approx(last, abs=1e-4)
