"""Which layers meet: maps by name, by similarity, by hand; a wrong number is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import RecipeError
from cluster.recipe.stage_parts import Layers
from jobs.training.stages.layer_map import in_order, linear_cka, pairs


def mapped(
    values: dict[str, object], student: int, teacher: list[int], similarity: object = None
) -> list[tuple[int, int]]:
    return pairs(Layers.parse(values), student, teacher, lambda own, theirs: np.asarray(similarity), "layers")


def test_named_maps_are_what_their_names_say() -> None:
    twelve = list(range(1, 13))
    assert mapped({"map": "last_k"}, 3, twelve) == [(1, 10), (2, 11), (3, 12)]
    assert mapped({"map": "uniform"}, 4, twelve) == [(1, 3), (2, 6), (3, 9), (4, 12)]
    assert mapped({"map": "between", "between": [6, 9]}, 4, twelve) == [(1, 6), (2, 7), (3, 8), (4, 9)]
    assert mapped({"map": "between", "between": [6, 9]}, 2, twelve) == [(1, 7), (2, 9)]
    assert mapped({"map": "explicit", "pairs": [[2, 12], [1, 4]]}, 2, twelve) == [(1, 4), (2, 12)]
    assert mapped({"map": "last_k", "student": [4]}, 4, twelve) == [(4, 12)]


def test_the_similarity_map_follows_the_largest_sum_that_keeps_the_order() -> None:
    similarity = [[0.9, 0.8, 0.1], [0.95, 0.2, 0.3]]
    assert mapped({"map": "cka"}, 2, [2, 5, 9], similarity) == [(1, 2), (2, 9)]
    assert in_order(np.array([[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]])) == [1, 1, 1]  # more students than teachers


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_no_later_layer_ever_meets_an_earlier_one(students: int, teachers: int, seed: int) -> None:
    columns = in_order(np.random.default_rng(seed).random((students, teachers)))
    steps = np.diff(columns)
    assert (steps >= int(students <= teachers)).all() and 0 <= min(columns) <= max(columns) < teachers


def test_cka_is_blind_to_rotation_and_scale_and_low_for_strangers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert linear_cka(x, 3 * x @ rotation + 5) == pytest.approx(1)
    assert linear_cka(x, rng.normal(size=(300, 12))) < 0.1
    assert linear_cka(x, np.ones((300, 3))) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"map": "explicit", "pairs": [[5, 1]]}, "student layers: no such layer"),
        ({"map": "explicit", "pairs": [[1, 13]]}, "teacher layers: no such layer"),
        ({"map": "between", "between": [2, 20]}, "between: no such layer"),
        ({"map": "last_k", "student": [9]}, "student: no such layer"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        mapped(values, 3, list(range(1, 13)))


def test_more_student_layers_than_teacher_layers_have_no_last_k() -> None:
    with pytest.raises(RecipeError, match="map last_k"):
        mapped({"map": "last_k"}, 4, [1, 2])
