"""What holds for every filter, whatever it looks at."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.errors import RecipeError
from cluster.recipe import Recipe, Term
from jobs.data import filters
from jobs.data.filters import FILTERS, Filter, Rows

PARAMS: dict[str, dict[str, Any]] = {"consistency": {"rule": "response != prompt"}, "image_text": {"encoder": "none"}}
PROMPTS = ["where is my card", "Where is my card?", "I lost my phone today", "call 541-714-1388 now", "how are you"] * 4
ROW_FILTERS = sorted(name for name, entry in FILTERS.items() if isinstance(entry, Filter))


@pytest.fixture(autouse=True)
def the_judge(monkeypatch: pytest.MonkeyPatch, judge_params: dict[str, Any]) -> None:
    monkeypatch.setitem(PARAMS, "judge", judge_params)


@pytest.fixture
def rows(make_rows: Callable[..., Rows]) -> Rows:
    unit = np.random.default_rng(0).normal(size=(20, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    names = ["yes", "no", "yes", "yes", "no"] * 4
    confidence = [0.5 + place / 50 for place in range(20)]
    return make_rows(
        PROMPTS, unit.astype(np.float32), label_name=names, confidence=confidence, evaluation={"test": ["how are you"]}
    )


def asked(name: str, rows: Rows) -> filters.Verdicts:
    entry = FILTERS[name]
    assert isinstance(entry, Filter)
    return entry.function(rows, entry.params.parse(PARAMS.get(name, {})))


@pytest.mark.parametrize("name", ROW_FILTERS)
def test_a_filter_answers_for_every_row_and_the_same_when_asked_again(name: str, rows: Rows) -> None:
    first, second = asked(name, rows), asked(name, rows)
    assert len(first.reasons) == len(first.scores) == 20
    assert list(first.reasons) == list(second.reasons)
    assert np.array_equal(first.scores, second.scores, equal_nan=True)
    if first.twins is not None:
        assert [twin is None for twin in first.twins] == [reason is None for reason in first.reasons]


@pytest.mark.parametrize("name", ROW_FILTERS)
def test_a_filter_that_is_given_nothing_refuses_nothing(name: str, make_rows: Callable[..., Rows]) -> None:
    assert list(asked(name, make_rows([])).reasons) == []


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_every_parameter_says_what_it_means_and_every_filter_can_be_asked_for(name: str) -> None:
    assert all(field.description for field in FILTERS[name].params.model_fields.values())
    filters.check([Term(name=name, params=PARAMS.get(name, {}))])


def test_what_does_not_fit_the_recipe_is_refused_before_anything_runs(tiny_digits: Callable[..., Recipe]) -> None:
    recipe = tiny_digits()
    for name, params, told in (
        ("wrong_label", {"signal": "teacher"}, "fitted on the labels it would judge"),
        ("image_text", {"encoder": "/nowhere"}, "image_text.encoder"),
        ("consistency", {"rule": "response =="}, "no Jinja2 expression"),
        ("consistency", {"rule": "colour == 'red'"}, "unknown column colour"),
    ):
        with pytest.raises(RecipeError, match=told):
            filters.check([Term(name=name, params=params)], recipe)
    with pytest.raises(RecipeError, match="encoder"):
        filters.check([Term(name="image_text")], recipe)
