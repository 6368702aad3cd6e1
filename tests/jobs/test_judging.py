"""Between rounds the recipe's own filters say which answers do not count."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cluster.recipe import Recipe
from jobs.data import judging


def test_between_rounds_the_filters_say_what_is_missing(
    tiny_digits: Callable[..., Recipe], answerer: tuple[Any, pa.Table]
) -> None:
    teacher, requests = answerer
    lengths = [len(prompt) for prompt in requests["prompt"].to_pylist()[:12]]
    shortest = lengths.index(min(lengths))
    again = requests.slice(shortest, 1).set_column(0, requests.schema.field(0), pa.array(["f" * 16]))
    answers = teacher(pa.concat_tables([requests.slice(0, 12), again, requests.slice(12, 1)]))
    rejected = pa.array(["ok"] * 13 + ["rejected"])
    answers = answers.set_column(answers.column_names.index("status"), "status", rejected)
    rule = f"prompt | length < {max(lengths)}"
    recipe = tiny_digits(f"curate.filters=[{{name: duplicate}}, {{name: consistency, params: {{rule: '{rule}'}}}}]")
    reasons = judging.refusals(recipe, answers)
    assert reasons[12] == "duplicate" and reasons[13] == "no_answer"
    assert all(reasons[row] == "inconsistent" for row in range(12) if lengths[row] == max(lengths))


def test_a_filter_that_asks_a_paid_model_waits_for_the_curation(
    tiny_digits: Callable[..., Recipe], answerer: tuple[Any, pa.Table]
) -> None:
    teacher, requests = answerer
    nobody = "{architecture: openai, weights: m, params: {base_url: 'http://127.0.0.1:9/v1'}}"
    recipe = tiny_digits(f"curate.filters=[{{name: judge, params: {{judge: {nobody}}}}}]")
    assert len(judging.refusals(recipe, teacher(requests.slice(0, 4)))) == 4
