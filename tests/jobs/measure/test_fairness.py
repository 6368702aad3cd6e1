"""Fairness: gaps on a planted bias, as fairlearn and by hand; groups of one size; what is refused."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import RecipeError
from cluster.recipe.measures import FairnessSection
from jobs.measure import fairness
from serving.bundle.answer import Answer

PENALTY = {"tall": 0.0, "short": 0.3, "old": 0.1}


@pytest.fixture
def section(tmp_path: Path) -> FairnessSection:
    rows = [
        {"text": f"{identity} people {verb} {number}", "identity": identity, "kind": "good" if number % 2 else "bad"}
        for identity in [*PENALTY, "seldom"]
        for verb in ("sing", "walk")
        for number in range(2 if identity == "seldom" else 30)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "templates.parquet")
    return FairnessSection(
        templates=str(tmp_path / "templates.parquet"), positive="liked", only={"kind": "good"}, rows_per_group=20,
        rows_min=10,
    )  # fmt: skip


def biased(items: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """A classifier that likes some people less."""
    p = [0.7 - PENALTY[item["text"].split()[0]] for item in items]
    return [Answer("liked" if own > 0.5 else "not", max(own, 1 - own), {"liked": own, "not": 1 - own}) for own in p]


def test_a_planted_bias_is_the_gap_and_names_the_two_groups(section: FairnessSection) -> None:
    told = fairness.measure(section, biased, seed=0)
    assert told["label_filter"] == {"kind": "good"}
    assert told["gap"] == pytest.approx(0.3) and told["selection_gap"] == 1.0 and told["worst"] == ["tall", "short"]
    assert {one["name"]: one["rows"] for one in told["groups"]} == {"tall": 20, "short": 20, "old": 20}
    by_name = {one["name"]: one for one in told["groups"]}
    assert by_name["short"]["probability"] == pytest.approx(0.4) and by_name["short"]["selection_rate"] == 0.0
    assert by_name["short"]["low"] == 0.0 < by_name["short"]["high"] < 0.2


def test_a_blind_classifier_has_no_gap() -> None:
    rng = np.random.default_rng(0)
    told = fairness.audited(["a"] * 500 + ["b"] * 500, np.full(1000, 0.8), rng.random(1000) < 0.8)
    assert told["gap"] == pytest.approx(0.0) and told["selection_gap"] < 0.08


def test_only_rows_that_the_filter_keeps_are_asked_and_the_same_ones_every_time(section: FairnessSection) -> None:
    texts, groups = fairness.read(section, 0)
    assert all(int(text.split()[-1]) % 2 for text in texts) and "seldom" not in groups
    assert (texts, groups) == fairness.read(section, 0) and texts != fairness.read(section, 1)[0]


def test_an_unknown_class_column_or_filter_is_refused_by_name(section: FairnessSection) -> None:
    with pytest.raises(RecipeError, match=r"(?s)fairness\.positive.*loved.*liked"):
        fairness.measure(section.model_copy(update={"positive": "loved"}), biased, 0)
    with pytest.raises(RecipeError, match=r"(?s)no such column.*sort"):
        fairness.read(section.model_copy(update={"only": {"sort": "good"}}), 0)
    with pytest.raises(RecipeError, match="nothing to compare"):
        fairness.read(section.model_copy(update={"only": {"kind": "ugly"}}), 0)
    with pytest.raises(RecipeError, match=r"(?s)fairness\.positive.*liked.*good, bad"):
        fairness.check(section, ["good", "bad"], 0)
    fairness.check(section, ["liked", "not"], 0)
