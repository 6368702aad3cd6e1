"""Requests out of templates, temperatures and draws: ids are of the request, and a template reaches nothing else."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from cluster import schema
from cluster.errors import RecipeError
from cluster.recipe import GenerateSection, Recipe
from jobs import generate
from jobs.data.requests import expand, templates


def base(rows: int = 4) -> pa.Table:
    made = [
        {
            "sample_id": f"{row:016x}", "split": "train", "slice": "all", "prompt": f"text {row}", "seed_row": row,
            "label_name": "yes" if row % 2 else "no", "view": 0, "draw": 0, "temperature": 0.0, "seed": 1,
        }
        for row in range(rows)
    ]  # fmt: skip
    return schema.conform(pa.Table.from_pylist(made, schema.schema("requests")), "requests")


def section(**changes: Any) -> GenerateSection:
    return GenerateSection.parse(changes)


def test_without_templates_and_temperatures_the_requests_stay_as_they_are() -> None:
    assert expand.expand(base(), section()) is not None
    assert expand.expand(base(), section()).equals(base())


def test_every_combination_is_asked_and_a_greedy_one_only_once() -> None:
    asked = section(templates={"a": "Say: {{ text }}", "b": "{{ text|upper }}?"}, temperatures=[0.0, 0.7], draws=3)
    rows = expand.expand(base(), asked).to_pylist()
    assert len(rows) == 4 * 2 * (1 + 3) == 4 * expand.combinations(asked)
    assert len({row["sample_id"] for row in rows}) == len(rows)
    assert {row["prompt"] for row in rows if row["seed_row"] == 2} == {"Say: text 2", "TEXT 2?"}
    assert {row["parent"] for row in rows if row["seed_row"] == 2} == {f"{2:016x}"}
    assert all(row["label_name"] == ("yes" if row["seed_row"] % 2 else "no") for row in rows)
    drawn = [row["seed"] for row in rows if row["temperature"] > 0]
    assert len(set(drawn)) == len(drawn)


def test_a_further_draw_or_template_changes_no_id_of_the_others() -> None:
    few = expand.expand(base(), section(templates={"a": "{{ text }}!"}, temperatures=[0.7], draws=2))
    more = expand.expand(
        base(9), section(templates={"a": "{{ text }}!", "b": "{{ text }}?"}, temperatures=[0.7], draws=4)
    )
    assert set(few["sample_id"].to_pylist()) < set(more["sample_id"].to_pylist())


def test_another_template_text_gives_other_ids() -> None:
    one, other = (expand.expand(base(), section(templates={"a": text})) for text in ("{{ text }}!", "{{ text }}?"))
    assert not set(one["sample_id"].to_pylist()) & set(other["sample_id"].to_pylist())


def test_the_limit_takes_first_answers_of_all_rows_before_second_ones() -> None:
    rows = expand.expand(base(), section(temperatures=[0.7], draws=2, samples=6)).to_pylist()
    assert [row["draw"] for row in rows] == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    "source",
    ["{{ label }}", "{{ text", "", "{{ text.__class__.__mro__ }}", "{% if false %}x{% endif %}", "{{ 1 / 0 }}"],
)
def test_a_template_that_cannot_be_filled_is_refused_by_name(source: str) -> None:
    with pytest.raises(RecipeError, match=r"generate\.templates\.bad"):
        templates.compiled({"good": "{{ text }}", "bad": source})


def test_requests_that_cannot_work_are_refused_before_ray_starts(tiny_digits: Callable[..., Recipe]) -> None:
    generate.check(tiny_digits("generate.draws=3", "generate.temperature=0.7", "generate.rounds=3"))
    with pytest.raises(RecipeError, match=r"generate\.draws"):
        generate.check(tiny_digits("generate.draws=3"))
    with pytest.raises(RecipeError, match=r"generate\.temperatures"):
        generate.check(tiny_digits("generate.temperatures=[0.7, 0.7]"))
    with pytest.raises(RecipeError, match=r"generate\.rounds"):
        generate.check(tiny_digits("generate.rounds=3", "generate.samples=0"))
    with pytest.raises(RecipeError, match=r"generate\.templates\.a"):
        generate.check(tiny_digits("generate.templates={a: '{{ answer }}'}"))


def test_candidates_of_several_rounds_are_more_than_are_asked(tiny_digits: Callable[..., Recipe]) -> None:
    assert len(generate.candidates(tiny_digits("generate.samples=30"))) == 30
    pool = generate.candidates(tiny_digits("generate.samples=30", "generate.rounds=3", "generate.pool=2.0"))
    assert len(pool) == 60 == len(set(pool["sample_id"].to_pylist()))
