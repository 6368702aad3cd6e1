"""A model that judges rows: a real HTTP server answers the questions."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import InputError, RecipeError
from cluster.recipe import Recipe, Term
from jobs.data import filters
from jobs.data.filters import Rows, judge

PROMPTS = ["where is my card", "I lost my phone", "how are you", "where is my card today"]


def test_a_row_is_kept_refused_or_not_judged_by_the_first_word_of_the_judge(
    make_rows: Callable[..., Rows], judge_params: dict[str, Any]
) -> None:
    unit = np.eye(4, dtype=np.float32)
    verdicts = judge.judge(make_rows(PROMPTS, unit), judge.Params.parse({**judge_params, "batch_size": 3}))
    assert list(verdicts.reasons) == [None, "judged_bad", "not_judged", None]
    assert verdicts.scores == pytest.approx([np.exp(-0.1)] * 4)


def test_a_row_that_the_judge_gives_no_answer_to_is_set_aside_not_kept(
    make_rows: Callable[..., Rows], judge_params: dict[str, Any]
) -> None:
    rows = make_rows(["where is my card", "server breaks"], np.eye(2, dtype=np.float32))
    asking = judge_params["judge"]["asking"] | {"attempts": 1}
    verdicts = judge.judge(rows, judge.Params.parse({"judge": judge_params["judge"] | {"asking": asking}}))
    assert list(verdicts.reasons) == [None, "not_judged"]
    assert np.isnan(verdicts.scores[1])


def test_the_judges_budget_goes_on_where_an_earlier_try_of_the_curation_left_it(
    make_rows: Callable[..., Rows], judge_params: dict[str, Any], tmp_path: Path
) -> None:
    asking = judge_params["judge"]["asking"] | {"budget_tokens": 1500.0}
    params = judge.Params.parse({"judge": judge_params["judge"] | {"asking": asking}, "batch_size": 1})
    rows = replace(make_rows(["where is my card"] * 40, np.ones((40, 1), np.float32)), spent=tmp_path)
    first = [judge.judge(rows, params).reasons.count(None) for _ in range(2)]
    assert 0 < first[0] < 40
    assert first[1] == 0
    assert len(list(tmp_path.glob("judge-*.json"))) == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"question": "{{ label }}"}, "cannot be filled"),
        ({"accept": ["yes"], "refuse": ["yes"]}, "accepts and refuses"),
        ({"judge": {"architecture": "encoder"}}, "a model that writes"),
        ({"judge": {"architecture": "openai", "params": {"base_url": "http://localhost:1/v1"}}}, "judge.weights"),
    ],
)
def test_a_judge_that_cannot_work_is_refused_before_anything_runs(
    change: dict[str, Any], told: str, judge_params: dict[str, Any], tiny_digits: Callable[..., Recipe]
) -> None:
    with pytest.raises(InputError, match=told):
        filters.check([Term(name="judge", params=judge_params | change)], tiny_digits())


def test_a_filter_named_without_its_judge_says_so() -> None:
    with pytest.raises(RecipeError, match=r"params\.judge"):
        filters.check([Term(name="judge")])
