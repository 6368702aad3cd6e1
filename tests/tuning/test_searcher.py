"""What the searcher draws: recipes alone, none twice, what was under way first, and better than by chance."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from cluster.recipe import Knob, Recipe
from cluster.store import Store
from tuning.ledger import Ledger
from tuning.searcher import Study
from tuning.space import Point, Space
from tuning.trials import Asked, Ended

RATE, TEMPERATURE = "distill.stages.0.learning_rate", "distill.stages.0.losses.0.params.temperature"
Make = Callable[..., Space]


@pytest.fixture
def make(searched_recipe: Callable[..., Recipe]) -> Make:
    def space(**knobs: dict[str, Any]) -> Space:
        recipe = searched_recipe()
        named = {name.replace("__", "."): Knob.parse(own) for name, own in knobs.items()}
        section = recipe.search.model_copy(update={"knobs": named}) if knobs else recipe.search
        return Space(recipe.model_copy(update={"search": section}))

    return space


def tried(study: Study, count: int, worth: Callable[[Point], dict[str, Any] | None]) -> list[Point]:
    """Run `count` trials by hand; `worth` gives a trial's last report, None where it died."""
    points = []
    for number in range(count):
        config = study.suggest(f"t{number}")
        if config == Searcher.FINISHED:
            break
        points.append(config["point"])
        result = worth(config["point"])
        study.on_trial_complete(f"t{number}", result, error=result is None)
    return points


def good(point: Point) -> dict[str, Any]:
    return {"quality": 1 - abs(float(point[TEMPERATURE]) - 2) / 10, "latency_ms": 1.0, "bytes": 9.0, "trial": "x"}


def test_no_point_is_tried_twice_and_an_empty_space_ends_the_search(make: Make) -> None:
    space = make(distill__stages__0__losses__0__params__temperature={"choice": [1.0, 2.0, 4.0]})
    for kind in ("tpe", "random", "motpe"):
        points = tried(Study(space, Asked(kind, ["quality", "bytes"], startup=2)), 9, good)
        assert sorted(point[TEMPERATURE] for point in points) == [1.0, 2.0, 4.0]


def test_a_point_that_is_no_recipe_is_drawn_again(make: Make) -> None:
    space = make(export__block_size={"choice": [32, 33, 34, 35, 36, 64]})
    study = Study(space, Asked("random", ["quality"]))
    points = tried(study, 6, lambda point: {"quality": 0.5})
    assert sorted(point["export.block_size"] for point in points) == [32, 64]
    assert len(study.refused) == 4 and all("block_size" in why for why in study.refused.values())


def test_what_comes_first_is_tried_first_also_outside_of_the_space(make: Make) -> None:
    space = make(distill__stages__0__learning_rate={"log": [0.001, 0.01]})
    study = Study(space, Asked("tpe", ["quality"], first=[{RATE: 0.5}, {RATE: 0.002}, {RATE: 0.002}]))
    points = tried(study, 3, lambda point: {"quality": 0.5})
    assert [point[RATE] for point in points[:2]] == [0.5, 0.002] and points[2][RATE] not in (0.5, 0.002)


def test_the_study_is_told_how_each_trial_ended(make: Make) -> None:
    space = make(distill__stages__0__learning_rate={"log": [0.001, 0.01]})
    study = Study(space, Asked("tpe", ["quality"]))
    ends: list[dict[str, Any] | None] = [
        {"quality": 0.9, "agreement": 0.8, "progress": 100},
        {"agreement": 0.3, "progress": 33},
        {"failed": "NaN"},
        None,
    ]
    tried(study, 4, lambda point: ends[len(study.study.trials) - 1])
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert [trial.state for trial in study.study.trials] == states
    assert study.study.trials[1].intermediate_values == {33: 0.3}


def test_trials_of_before_are_known_and_not_drawn_again(make: Make) -> None:
    space = make(distill__stages__0__losses__0__params__temperature={"choice": [1.0, 2.0, 4.0]})
    known = [Ended({TEMPERATURE: 1.0}, objectives={"quality": 0.7}), Ended({TEMPERATURE: 2.0}, stopped=(33, 0.2))]
    study = Study(space, Asked("tpe", ["quality"], known=known))
    assert [point[TEMPERATURE] for point in tried(study, 5, good)] == [4.0]
    assert [trial.state for trial in study.study.trials[:2]] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_tpe_ends_nearer_to_the_best_than_chance(make: Make) -> None:
    space = make(distill__stages__0__learning_rate={"log": [1e-5, 0.9]})

    def worth(point: Point) -> dict[str, Any]:
        import math

        return {"quality": -abs(math.log10(point[RATE]) + 2)}

    def best(kind: str, seed: int) -> float:
        points = tried(Study(space, Asked(kind, ["quality"], seed=seed)), 24, worth)
        return max(worth(point)["quality"] for point in points)

    wins = sum(best("tpe", seed) > best("random", seed) for seed in range(5))
    assert wins >= 4


def test_a_ledger_remembers_what_ended_and_what_was_under_way(tmp_path: Path, make: Make) -> None:
    store, space = Store.open(tmp_path), make(distill__stages__0__learning_rate={"log": [0.001, 0.01]})
    ledger = Ledger(store, "one", {"searcher": "tpe"})
    study = Study(space, Asked("tpe", ["quality"]), ledger.notes)
    whole = {"quality": 0.9, "latency_ms": 1.0, "bytes": 10.0, "trial": "abc", "time_total_s": 2.0}
    ends = [whole, {"agreement": 0.3, "progress": 33}, {"failed": "diverged"}, None]
    points = tried(study, 4, lambda point: ends[len(ledger.trials) - 1])
    under_way = study.suggest("last")["point"]
    again = Ledger(store, "one", {})
    assert [one["status"] for one in again.trials] == ["done", "stopped", "failed", "failed", "running"]
    assert again.trials[2]["reason"] == "diverged" and again.trials[0]["seconds"] == 2.0
    assert again.unfinished == [under_way] and [ended.point for ended in again.known] == points
    assert again.known[0].objectives == {"quality": 0.9, "latency_ms": 1.0, "bytes": 10.0}


def test_what_ends_with_the_budget_is_cut_and_tried_again(tmp_path: Path, make: Make) -> None:
    ledger = Ledger(Store.open(tmp_path), "one", {})
    study = Study(
        make(distill__stages__0__learning_rate={"log": [0.001, 0.01]}), Asked("tpe", ["quality"]), ledger.notes
    )
    point = study.suggest("a")["point"]
    ledger.over = True
    study.on_trial_complete("a", {"agreement": 0.9, "progress": 50})
    assert ledger.trials[0]["status"] == "cut" and ledger.unfinished == [point] and not ledger.known
