"""Which rows a stage draws: its slice, its bounds, and the easiest share first."""

from typing import Any

import numpy as np
import pytest

from cluster.errors import RecipeError
from cluster.recipe import Stage
from jobs.training.sampler import order

SLICES = np.array([0, 1] * 50)
KNOWN = {
    "difficulty": np.linspace(0, 1, 100, dtype=np.float32),
    "confidence": np.linspace(1, 0.5, 100, dtype=np.float32),
    "modalities": np.array([1] * 60 + [2] * 40, np.int8),
}


def drawn(known: dict[str, np.ndarray] = KNOWN, **stage: Any) -> np.ndarray:
    values = {"name": "s", "epochs": 4, "learning_rate": 0.01, "losses": [{"name": "cross_entropy"}], **stage}
    return order(Stage.parse(values), SLICES, ["a", "b"], 10, seed=3, known=known)


def test_easy_rows_come_first_and_all_of_them_later() -> None:
    plan = drawn(curriculum=[{"share": 1, "easiest": 0.3}, {"share": 1, "easiest": 0.6}, {"share": 2}])
    assert set(plan[:10].ravel()) == set(range(30)) and set(plan[10:20].ravel()) == set(range(60))
    assert set(plan[20:].ravel()) == set(range(100))


def test_rungs_by_the_number_of_modalities_take_every_row_of_a_rung() -> None:
    plan = drawn(curriculum=[{"share": 1, "easiest": 0.1, "by": "modalities"}, {"share": 1}])
    assert set(plan[:20].ravel()) == set(range(60))  # rows as hard as the last of the share are in


def test_a_stage_learns_from_its_own_slice_of_the_data_and_counts_epochs_over_it() -> None:
    plan = drawn(rows={"slices": ["b"], "confidence": [0.8, 1.0]})
    assert set(plan.ravel()) <= set(range(1, 40, 2)) and len(plan) == 4 * 20 // 10
    assert set(drawn(rows={"modalities": [2, 2]}).ravel()) == set(range(60, 100))


def test_easy_first_works_within_the_slices_of_a_phase() -> None:
    plan = drawn(curriculum=[{"share": 1, "easiest": 0.5, "slices": {"a": 1}}])
    assert set(plan.ravel()) == set(range(0, 50, 2))


def test_without_these_knobs_rows_are_drawn_as_they_always_were() -> None:
    rng = np.random.default_rng(3)
    expected = np.concatenate([rng.permutation(100) for _ in range(4)]).reshape(40, 10)
    assert np.array_equal(drawn(), expected)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"rows": {"slices": ["c"]}}, "unknown slice"),
        ({"rows": {"confidence": [0.0, 0.1]}}, "no row is left"),
        ({"curriculum": [{"share": 1, "easiest": 0.5, "by": "length"}]}, "rows have no length"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(stage: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        drawn(**stage)
