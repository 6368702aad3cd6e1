"""Real trials in this process: measured as they would be served, made once, stopped without a trace, failed by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import StepFailed
from cluster.recipe import load
from cluster.store import Store
from jobs import distill, fit, generate
from jobs.before import teacher_exam, worth
from jobs.step import Work
from jobs.training.run import job_of
from jobs.training.runner import run_local
from tuning import importance, objective, report, results
from tuning.ledger import Ledger
from tuning.searcher import Study
from tuning.trials import Asked

RATE = "distill.stages.0.learning_rate"


@pytest.fixture(scope="module")
def trial(prepared: Any) -> Any:
    return objective.run(prepared.space, prepared.store, prepared.space.base, lambda seen: None)


def test_a_trial_tells_its_agreement_on_the_way_and_its_objectives_at_the_end(prepared: Any) -> None:
    seen: list[dict[str, Any]] = []
    point = {**prepared.space.base, RATE: 0.02}
    made = objective.run(prepared.space, prepared.store, point, lambda one: seen.append(dict(one)))
    assert [one["progress"] for one in seen] == [11, 22, 33, 44, 55, 66, 77, 88, 100]
    assert all(0 <= one["agreement"] <= 1 for one in seen)
    assert seen[-1]["trial"] == made.id and 0 < seen[-1]["quality"] <= 1
    assert seen[-1]["bytes"] > 1000 and seen[-1]["latency_ms"] > 0
    assert made.manifest.facts["recipe"]["distill"]["stages"][0]["learning_rate"] == 0.02


def test_a_trial_that_was_made_is_found_and_not_trained_again(prepared: Any, trial: Any) -> None:
    seen: list[dict[str, Any]] = []
    again = objective.run(prepared.space, prepared.store, prepared.space.base, lambda one: seen.append(dict(one)))
    assert again.id == trial.id and prepared.store.attempts("trial", trial.id) == 1
    assert len(seen) == 1 and seen[0]["quality"] == objective.content(trial)["quality"]


def test_the_teacher_ran_once_for_all_trials(prepared: Any, trial: Any) -> None:
    recipe, store = prepared.space.recipe, prepared.store
    assert store.attempts("samples", generate.STEP.id(recipe)) == 1
    assert (
        store.attempts("teacher", fit.STEP.id(recipe)) == 1
        and store.attempts("exam", teacher_exam.STEP.id(recipe)) == 1
    )


def test_being_looked_at_changes_nothing_of_the_training(prepared: Any, trial: Any, tmp_path: Path) -> None:
    recipe, store = prepared.space.recipe, prepared.store
    parents = {step.kind: store.get(step.kind, step.id(recipe)) for step in distill.STEP.parents}
    elsewhere = Store.open(tmp_path)
    with elsewhere.draft("student", "alone", section={}, parents={}, step_version=1) as draft:
        work = Work(recipe, store, parents, draft)
        job = job_of(work, distill.student_arm(work))
        trained = run_local(job, tmp_path / "run")
        measured = worth.measure(work, trained.weights, tmp_path / "bundle")
    found = objective.content(trial)
    assert measured.quality == found["quality"]
    assert np.array_equal(measured.right_R, worth.right_of(found))


def test_a_stopped_trial_leaves_no_weights_behind(prepared: Any) -> None:
    def stop(seen: Any) -> None:
        raise SystemExit

    point = {**prepared.space.base, RATE: 0.003}
    with pytest.raises(SystemExit):
        objective.run(prepared.space, prepared.store, point, stop)
    aid = objective.STEP.id(prepared.space.build(point))
    assert prepared.store.find("trial", aid) is None
    assert not list((prepared.store.workspace / "trial" / aid).rglob("*.safetensors"))


def test_a_training_that_diverges_fails_with_its_reason(prepared: Any) -> None:
    def broken(work: Work, tell: Any) -> None:
        stage = work.recipe.distill.stages[0]
        bad = stage.model_copy(update={"learning_rate": 1e30})
        section = work.recipe.distill.model_copy(update={"stages": [bad]})
        objective.body(replace(work, recipe=work.recipe.model_copy(update={"distill": section})), tell)

    recipe = prepared.space.build({**prepared.space.base, RATE: 0.0042})
    step = replace(objective.STEP, body=partial(broken, tell=lambda share, agreement: None))
    with pytest.raises(StepFailed, match="trial failed") as failed:
        step.run(recipe, prepared.store)
    assert "diverged" in str(failed.value) or "not finite" in str(failed.value)
    assert "\n" not in objective.reason(failed.value)


def test_the_teachers_answers_are_what_trials_agree_with(prepared: Any) -> None:
    recipe, store = prepared.space.recipe, prepared.store
    made = teacher_exam.STEP.run(recipe, store)
    right = teacher_exam.right(recipe, made)
    columns = teacher_exam.columns(recipe, made, 50)
    assert len(right) == 144 and right.mean() > 0.5 and len(columns["target"]) == 50


@pytest.fixture(scope="module")
def found(prepared: Any, trial: Any) -> dict[str, Any]:
    """The result of a small search that was run by hand: the preset, two more, one stopped and one failed."""
    space, store = prepared.space, prepared.store
    ledger = Ledger(store, "by-hand", {"searcher": "tpe"})
    study = Study(space, Asked("tpe", ["quality"], first=[space.base]), ledger.notes)
    for number in range(5):
        point = study.suggest(str(number))["point"]
        if number < 3:
            last: dict[str, Any] = {}
            objective.run(space, store, point, last.update)
        else:
            last = {"agreement": 0.4, "progress": 33} if number == 3 else {"failed": "diverged: too fast"}
        study.on_trial_complete(str(number), last)
    made = results.write(space, store, ledger, [{"samples": "abc", "runs": 1, "answered": 10}])
    (made.path() / "seen").mkdir(exist_ok=True)
    return results.content(made) | {"folder": str(made.path())}


def test_the_best_recipe_is_written_as_one_that_loads(prepared: Any, found: dict[str, Any]) -> None:
    best = load(str(Path(found["folder"]) / results.BEST))
    assert best == prepared.space.build(found["best"]["point"])
    top = max(one["objectives"]["quality"] for one in found["trials"] if one["status"] == "done")
    assert found["best"]["objectives"]["quality"] == top and found["preset"]["number"] == 0
    assert found["count"] == {"done": 3, "stopped": 1, "failed": 1} and found["rows"] == 144
    assert found["gain"]["value"] >= 0 and found["gain"]["verdict"] in ("better", "tie")


def test_every_recipe_of_the_repository_survives_being_written_out(tmp_path: Path) -> None:
    for name in ("digits", "banking77", "prune", "layered", "progressive", "text_from_endpoint", "av_mnist"):
        recipe = load(name)
        (tmp_path / "written.yaml").write_text(results.as_yaml(recipe))
        assert load(str(tmp_path / "written.yaml")) == recipe, name


def test_the_page_says_what_was_found_and_asks_for_nothing(found: dict[str, Any]) -> None:
    page = (Path(found["folder"]) / results.PAGE).read_text()
    for told in (
        "3 done",
        "failed: diverged: too fast",
        "stopped at 33 %",
        "the recipe as it was",
        report.verdict(found),
    ):
        assert told in page
    assert not re.search(r"""(src|href)=["']?https?:|url\(["']?https?:|<script|<link""", page)


def test_the_front_holds_what_nothing_else_beats() -> None:
    def one(number: int, quality: float, latency: float, size: float) -> dict[str, Any]:
        return {"number": number, "objectives": {"quality": quality, "latency_ms": latency, "bytes": size}}

    done = [one(0, 0.9, 2, 10), one(1, 0.9, 1, 10), one(2, 0.8, 0.5, 10), one(3, 0.7, 0.6, 11), one(4, 0.5, 9, 5)]
    names = ["quality", "latency_ms", "bytes"]
    assert [own["number"] for own in results.front(done, names)] == [1, 2, 4]
    assert [own["number"] for own in results.front(done, ["quality"])] == [0, 1]


def test_a_knob_that_decides_everything_is_named_so(prepared: Any) -> None:
    space, rng = prepared.space, np.random.default_rng(0)
    done = []
    for _ in range(40):
        point = {
            **space.base,
            RATE: float(10 ** rng.uniform(-3, -1.53)),
            "student.params.stem": int(rng.choice([4, 8])),
        }
        done.append({"point": point, "objectives": {"quality": -abs(np.log10(point[RATE]) + 2)}})
    shares = importance.of(space, done)
    assert shares is not None and next(iter(shares)) == RATE and shares[RATE] > 0.8
    assert importance.of(space, done[:3]) is None
    assert json.dumps(shares)
