"""What a search learns from the store's past: best points, trials of the same students, runs that lie in its space."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import generate
from jobs.step import run_name
from tuning import prior, report
from tuning.ledger import Ledger
from tuning.objective import students
from tuning.prior import Prior
from tuning.search import beginning
from tuning.searcher import Study
from tuning.space import Point, Space
from tuning.trials import Asked

RATE, TEMPERATURE = "distill.stages.0.learning_rate", "distill.stages.0.losses.0.params.temperature"
ALL = [prior.ALL]


@pytest.fixture
def space(searched_recipe: Callable[..., Recipe]) -> Space:
    """One knob; the recipe's own rate is 0.005."""
    return Space(searched_recipe(f"search.knobs={{{RATE}: {{log: [0.001, 0.01]}}}}"))


def searched(store: Store, name: str, recipe: Recipe, qualities: Mapping[float, float], **more: Any) -> None:
    """The record that a search leaves: learning rate -> quality of a finished trial."""
    trials = [
        {"point": {RATE: rate, "other": 1} if "other" in more else {RATE: rate}, "status": "done", "trial": f"{rate}",
         "objectives": {"quality": quality, "latency_ms": 1.0, "bytes": 9.0}}
        for rate, quality in qualities.items()
    ]  # fmt: skip
    about = {"recipe": recipe.model_dump(mode="json"), "students": students(recipe), "searcher": "tpe"}
    store.write_record(f"searches/{name}", {**about, **more, "trials": trials})


def ran(store: Store, recipe: Recipe, after: float) -> str:
    """The record and the report that a finished run leaves, as far as a search reads them."""
    aid = f"{round(1e9 * after):016x}"
    with store.draft("report", aid, section={}, parents={}, step_version=1) as draft:
        stages = [{"name": "one", "before": {"accuracy": 0.1}, "after": {"accuracy": after}}]
        (draft.path / "report.json").write_text(json.dumps({"stages": stages}))
    artifacts = {"samples": generate.STEP.id(recipe), "report": aid}
    name = run_name(recipe)
    store.write_record(f"runs/{name}", {"run": name, "recipe": recipe.model_dump(mode="json"), "artifacts": artifacts})
    return name


def rates(learned: Prior) -> list[float]:
    return [point[RATE] for point in learned.points]


def test_by_default_the_best_points_of_every_search_of_the_same_kind_come_first_in_turns(
    store: Store, space: Space
) -> None:
    other = space.recipe.model_copy(update={"name": "other", "seed": 1})
    searched(store, "one", other, {0.001 * n: n / 10 for n in range(1, 9)})
    searched(store, "two", other, {0.0011: 0.9, 0.0012: 0.8, 0.0013: 0.1}, other="its knob is none here")
    searched(store, "own", space.recipe, {0.0099: 0.9})
    learned = prior.learn(space, store, ALL, "own")
    assert rates(learned) == [0.008, 0.0011, 0.007] and not learned.known
    assert all(set(point) == {RATE} for point in learned.points)


def test_a_long_past_leaves_trials_to_the_searcher(store: Store, space: Space) -> None:
    other = space.recipe.model_copy(update={"seed": 1})
    for at in range(9):
        searched(store, f"s{at}", other, {0.001 + 0.0001 * at: 0.9})
    assert len(prior.learn(space, store, ALL, "new").points) == prior.POINTS_MAX
    assert len(prior.learn(space, store, [f"s{at}" for at in range(9)], "new").points) == 9


def test_what_speaks_of_other_things_by_the_same_names_is_not_learned_from(
    store: Store, space: Space, searched_recipe: Callable[..., Recipe]
) -> None:
    stage = space.recipe.distill.stages[0]
    renamed = space.recipe.distill.model_copy(update={"stages": [stage.model_copy(update={"name": "hidden"})]})
    searched(store, "stages", space.recipe.model_copy(update={"distill": renamed}), {0.002: 0.9})
    searched(store, "task", space.recipe.model_copy(update={"task": "visual_qa"}), {0.002: 0.9})
    searched(store, "outside", space.recipe.model_copy(update={"seed": 1}), {0.5: 0.9})
    searched(store, "nothing-done", space.recipe.model_copy(update={"seed": 1}), {})
    assert prior.learn(space, store, ALL, "new") == Prior([], [])


def test_none_learns_nothing_and_a_record_of_another_version_is_named(store: Store, space: Space) -> None:
    searched(store, "one", space.recipe.model_copy(update={"seed": 1}), {0.002: 0.9})
    store.write_record("searches/old", {"recipe": {"name": "a knob that is gone", "knob": 1}, "trials": []})
    assert prior.learn(space, store, ["none"], "new") == Prior()
    learned = prior.learn(space, store, ALL, "new")
    assert learned.unreadable == ["old"] and rates(learned) == [0.002]


def test_trials_of_the_same_students_are_known_and_their_best_are_found_again_not_hidden(
    store: Store, space: Space
) -> None:
    searched(store, "one", space.recipe, {0.005: 0.5, 0.002: 0.9, 0.003: 0.8, 0.004: 0.7})
    learned = prior.learn(space, store, ALL, "new")
    ledger = Ledger(store, "new", {"searcher": "tpe"})
    assert len(learned.known) == 4
    first, known = beginning(space, ledger, learned)
    # The recipe as it is and the best are tried here too (they are in the store), so the result compares with them.
    assert first == [{RATE: 0.005}, {RATE: 0.002}]
    assert [ended.point[RATE] for ended in known] == [0.003, 0.004]
    study = Study(space, Asked("tpe", ["quality"], first=first, known=known), ledger.notes)
    assert [study.suggest(str(at))["point"] for at in range(2)] == first
    assert len(study.study.trials) == 4


def test_finished_runs_in_the_space_are_tried_the_best_on_validation_rows_first(
    store: Store, space: Space, searched_recipe: Callable[..., Recipe]
) -> None:
    def at(rate: float, *more: str) -> Recipe:
        return searched_recipe(f"distill.stages.0.learning_rate={rate}", *more)

    weaker, stronger = ran(store, at(0.002), 0.8), ran(store, at(0.003, "evaluate.bootstrap=200"), 0.9)
    ran(store, space.recipe, 0.99)  # the recipe as it is
    ran(store, at(0.5), 0.98)  # beyond the knob's range
    ran(store, at(0.004, "distill.batch_size=7"), 0.97)  # differs in what is no knob
    store.write_record("runs/begun", {"recipe": at(0.006).model_dump(mode="json"), "artifacts": {"teacher": "x"}})
    learned = prior.learn(space, store, ALL, "new")
    assert [(one.kind, one.name) for one in learned.sources] == [("run", stronger), ("run", weaker)]
    assert rates(learned) == [0.003, 0.002]


def test_a_run_on_rows_that_changed_since_is_not_learned_from(store: Store, space: Space) -> None:
    name = ran(store, space.build({RATE: 0.002}), 0.8)
    record = store.read_record(f"runs/{name}") or {}
    store.write_record(f"runs/{name}", {**record, "artifacts": {**record["artifacts"], "samples": "of other rows"}})
    assert not prior.learn(space, store, ALL, "new").sources


def test_the_report_says_what_it_began_with_and_whether_that_was_worth_it(store: Store, space: Space) -> None:
    searched(store, "one", space.recipe.model_copy(update={"seed": 1}), {0.002: 0.9})
    learned, ledger = prior.learn(space, store, ALL, "new"), Ledger(store, "new", {"searcher": "tpe"})
    ledger.learned(learned.facts())
    noted = Ledger(store, "new", {}).prior
    assert noted is not None

    def trial(rate: float, quality: float) -> dict[str, Any]:
        point: Point = {RATE: rate}
        origin, preset = prior.origin(noted, {"point": point}), rate == 0.005
        done = {"point": point, "status": "done", "objectives": {"quality": quality}}
        return {**done, "origin": origin, "preset": preset}

    trials = [trial(0.005, 0.7), trial(0.002, 0.8), trial(0.004, 0.75)]
    told = report.began({"prior": noted, "trials": trials})
    assert told == (
        "Learned from search one (1 tried first). Of 1 trial from there the best reaches 80.0 %, "
        "of 1 that the searcher drew 75.0 %; the recipe as it was 70.0 %."
    )
    assert report.began({"prior": None, "trials": []}) == "Nothing was learned from earlier searches or runs."


def test_what_a_search_drew_itself_is_not_called_learned_when_its_best_recipe_was_run_since(
    store: Store, space: Space
) -> None:
    ledger = Ledger(store, "new", {"searcher": "tpe"})
    ledger.started("a", {RATE: 0.002})
    ran(store, space.build({RATE: 0.002}), 0.8)
    learned = prior.learn(space, store, ALL, "new")
    assert rates(learned) == [0.002]
    ledger.learned(learned.facts())
    assert ledger.prior is not None and ledger.prior["sources"] == []
