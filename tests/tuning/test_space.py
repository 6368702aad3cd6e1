"""Knobs over recipe fields: what a space takes, what it refuses, and that every point of it is a recipe."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import InputError, RecipeError
from cluster.recipe import Knob, Recipe, load
from cluster.recipe.load import known_recipes
from tuning.space import SHARED_MAX, Space, same

RATE = "distill.stages.0.learning_rate"


def space_of(recipe: Recipe, knobs: dict[str, Any]) -> Space:
    """The recipe with other knobs."""
    section = recipe.search.model_copy(update={"knobs": {name: Knob.parse(own) for name, own in knobs.items()}})
    return Space(recipe.model_copy(update={"search": section}))


@pytest.fixture
def make(searched_recipe: Callable[..., Recipe]) -> Callable[..., Space]:
    return lambda **knobs: space_of(searched_recipe(), knobs["knobs"])


def test_an_unknown_path_is_refused_with_the_nearest_known_one(make: Callable[..., Space]) -> None:
    with pytest.raises(RecipeError, match=r"did you mean distill.stages.0.learning_rate\?"):
        make(knobs={"distill.stages.0.lerning_rate": {"log": [1e-4, 1e-2]}}).check()


def test_a_value_that_the_field_refuses_is_found_at_the_end_of_the_range(make: Callable[..., Space]) -> None:
    with pytest.raises(RecipeError, match="learning_rate"):
        make(knobs={RATE: {"between": [0.1, 2.0]}}).check()


def test_a_list_item_that_is_not_there_is_refused(make: Callable[..., Space]) -> None:
    with pytest.raises(RecipeError, match=r"unknown item distill\.stages\.4"):
        make(knobs={"distill.stages.4.epochs": {"between": [1, 2]}}).check()


def test_what_makes_no_other_student_is_no_knob(make: Callable[..., Space]) -> None:
    with pytest.raises(RecipeError, match="makes no other student"):
        make(knobs={"promote.model_name": {"choice": ["a", "b"]}}).check()


def test_what_the_teacher_says_may_be_chosen_from_a_list_and_from_no_range(make: Callable[..., Space]) -> None:
    make(knobs={"generate.seed": {"choice": [0, 1]}}).check()
    with pytest.raises(RecipeError, match="teacher and samples of its own"):
        make(knobs={"generate.seed": {"integer": [0, 9]}}).check()
    with pytest.raises(InputError, match="too many teachers"):
        make(knobs={"generate.seed": {"choice": list(range(SHARED_MAX + 1))}}).check()


def test_every_choice_that_changes_the_samples_is_prepared_once(make: Callable[..., Space]) -> None:
    space = make(
        knobs={
            "generate.seed": {"choice": [0, 1]},
            "fit.batch_size": {"choice": [32, 64]},
            RATE: {"log": [0.001, 0.01]},
        }
    )
    made = [(recipe.generate.seed, recipe.fit.batch_size) for recipe in space.shared()]
    assert made == [(0, 32), (0, 64), (1, 32), (1, 64)]
    assert len(list(make(knobs={RATE: {"log": [0.001, 0.01]}}).shared())) == 1


def test_a_recipe_without_knobs_says_how_to_declare_some(make: Callable[..., Space]) -> None:
    with pytest.raises(InputError, match=r"search\.knobs"):
        make(knobs={}).check()


@pytest.mark.parametrize(
    "knob",
    [{}, {"log": [1, 2], "choice": [1, 2]}, {"log": [0, 1]}, {"between": [2, 1]}, {"choice": [1, 2], "step": 1.0},
     {"integer": [1, 5], "step": 0.5}],
)  # fmt: skip
def test_a_knob_says_one_thing(knob: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Knob.parse(knob)


def test_one_knob_may_turn_several_fields(make: Callable[..., Space]) -> None:
    space = make(
        knobs={
            "rate": {"log": [1e-4, 1e-2], "at": [RATE, "fit.stages.0.learning_rate"]},
        }
    )
    with pytest.raises(RecipeError, match="teacher and samples"):
        space.check()
    space = make(knobs={"size": {"choice": [4, 8], "at": ["student.params.stem", "student.params.widths.0"]}})
    space.check()
    student = space.build({"size": 4}).student
    assert student.params["stem"] == 4 and student.params["widths"] == [4, 16]


@pytest.mark.parametrize("name", known_recipes())
def test_the_spaces_of_the_repositorys_recipes_can_be_searched_and_hold_the_preset(name: str) -> None:
    space = Space(load(name))
    if not space.knobs:
        pytest.skip("nothing to search is declared")
    space.check()
    assert list(space.ends())
    assert space.inner(space.base) is not None and space.build(space.base) == space.recipe


def test_a_recipe_takes_an_inherited_knob_away_with_null(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: digits\nsearch: {knobs: {student.params.expert_size: null}}\n")
    assert set(load("digits").search.knobs) - set(load(str(path)).search.knobs) == {"student.params.expert_size"}


def test_a_schedule_is_searched_by_its_ends() -> None:
    start = "distill.stages.0.losses.0.weight.from"
    space = space_of(load("task_late"), {start: {"between": [0.4, 1.0]}})
    space.check()
    assert space.base == {start: 0.7} and space.build(space.base) == space.recipe
    assert space.build({start: 0.9}).distill.stages[0].losses[0].model_dump()["weight"]["start"] == 0.9


def test_fields_that_differ_in_the_recipe_are_no_one_knob(make: Callable[..., Space]) -> None:
    with pytest.raises(RecipeError, match="other values at its paths"):
        make(knobs={"size": {"choice": [4, 8], "at": ["student.params.stem", "student.params.widths.1"]}}).check()


def test_the_preset_is_a_point_and_builds_the_very_recipe(
    make: Callable[..., Space], searched_recipe: Callable[..., Recipe]
) -> None:
    space = Space(searched_recipe())
    assert space.base[RATE] == 0.005 and space.build(space.base) == space.recipe
    assert space.inner(space.base) is not None
    assert make(knobs={RATE: {"log": [0.01, 0.1]}}).inner({RATE: 0.005}) is None


@settings(deadline=None)
@given(
    inner=st.fixed_dictionaries({"rate": st.floats(0.001, 0.03), "kind": st.integers(0, 2), "stem": st.integers(0, 1)})
)
def test_points_and_the_searchers_parameters_are_the_same_thing(inner: dict[str, Any]) -> None:
    knobs = {"rate": {"log": [0.001, 0.03]}, "kind": {"choice": ["a", None, [1, 2]]}, "stem": {"choice": [4, 8]}}
    space = object.__new__(Space)
    object.__setattr__(
        space,
        "recipe",
        type("R", (), {"search": type("S", (), {"knobs": {n: Knob.parse(k) for n, k in knobs.items()}})}),
    )
    assert space.inner(space.point(inner)) == inner
    assert same(space.point(inner), dict(space.point(inner)))
