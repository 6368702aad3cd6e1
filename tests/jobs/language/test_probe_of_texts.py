"""A pilot of a language model: how likely true texts are, in a law of the loss, and what is predicted of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import curate, evaluate, fit, generate
from jobs.before import kept, likely, probe, teacher_exam, worth
from jobs.measure import exam, next_tokens
from jobs.measure.next_tokens import Likely
from jobs.tasks.text_generation.task import TextGeneration
from serving import teachers
from tuning import objective, results
from tuning.space import Space

ROWS = 200
TOKENS_R = np.full(ROWS, 30)


@pytest.mark.usefixtures("without_ray")
def test_a_probe_of_a_language_model_predicts_retention_as_its_report_will_measure_it(
    store: Store, language: Callable[..., Recipe], quiet: Any
) -> None:
    gates = {**dict.fromkeys(("latency_p95_ms", "int8_drop_max", "above_control")), "retention_min": 0.1}
    recipe = language(**{"evaluate.gates": gates, "search.latency_requests": 20, "curate.filters": []})
    found = probe.run(recipe, store, probe.Wanted(rows=24, sizes=3, steps=1), quiet)
    assert [one["rows"] for one in found["pilots"]] == [6, 12, 24] and 0 < found["teacher"] < 1
    assert found["retention"]["low"] <= found["retention"]["value"] <= found["retention"]["high"]
    assert found["retention"]["low"] > 0 and {gate["name"] for gate in found["gates"]} >= {"retention_min"}
    assert store.read_record(f"probes/{found['run']}") == found
    # What it calls the teacher's metric is what `evaluate` would call it on these rows.
    folder = store.get("teacher", fit.STEP.id(recipe)).path() / "hf"
    task, rows = _asked(recipe)
    told = next_tokens.told(teachers.open_folder(folder), rows)  # type: ignore[arg-type]
    assert found["teacher"] == told.likelihood == pytest.approx(told.metrics(told)["likelihood"])
    measured = task.evaluate(task.load(str(folder)), task.validation_columns())
    assert found["teacher"] == pytest.approx(measured["likelihood"], rel=1e-4)
    assert evaluate.STEP.find(recipe, store) is None  # test rows were not read
    assert teacher_exam.STEP.find(recipe, store) is None  # the teacher scores texts, and writes none


@pytest.mark.usefixtures("without_ray")
def test_a_trial_of_a_language_model_is_scored_as_its_bundle_answers(
    store: Store, language: Callable[..., Recipe]
) -> None:
    knobs = {"distill.stages.0.learning_rate": {"log": [0.001, 0.01]}}
    recipe = language(**{"search.knobs": knobs, "search.latency_requests": 20, "curate.filters": []})
    space, seen = Space(recipe), list[dict[str, Any]]()
    for step in (fit.STEP, generate.STEP, curate.STEP, teacher_exam.STEP):
        step.run(recipe, store)
    trial = objective.run(space, store, space.base, lambda one: seen.append(dict(one)))
    noted = likely.read(objective.content(trial))
    assert seen[-1]["quality"] == pytest.approx(noted.likelihood, rel=1e-4) and len(noted.nll_R) > 3
    assert all(0 < one["agreement"] < 1 for one in seen) and seen[-1]["bytes"] > 1000


def test_two_trials_of_texts_are_compared_with_an_interval() -> None:
    rng = np.random.default_rng(0)
    shared_R = rng.normal(0, 0.5, ROWS)
    better, equal, base = (drawn(loss, rng, shared_R) for loss in (3.0, 3.2, 3.2))
    told = {number: likely.facts(one) for number, one in enumerate((better, equal, base))}
    found = results.gain(told, {"number": 0}, {"number": 2}, 0)
    assert found["verdict"] == "better" and found["low"] < found["value"] < found["high"]
    assert found["value"] == pytest.approx(better.likelihood - base.likelihood, rel=1e-3)
    assert results.gain(told, {"number": 1}, {"number": 2}, 0)["verdict"] == "tie"
    assert results.ties(told, {"number": 1}, 0) == [0, 2] and results.rows_of(told[0]) == ROWS


def _asked(recipe: Recipe) -> tuple[Any, Any]:
    task, own = TextGeneration(recipe), exam.of(teacher_exam.rows_of(recipe), None, recipe.seed)
    texts = [item["text"] for item in own.items]
    return task, list(zip(task.contexts(texts), task.answers(own.truth), strict=True))


def drawn(loss: float, rng: np.random.Generator, shared_R: np.ndarray) -> Likely:
    """Rows of `loss` nats a token, harder and easier for every model alike, and a little for each alone."""
    return Likely((loss + shared_R + rng.normal(0, 0.1, ROWS)) * TOKENS_R, TOKENS_R)


def test_the_interval_holds_a_run_that_follows_a_law_of_the_loss() -> None:
    held = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        shared_R = rng.normal(0, 0.5, ROWS)
        sizes, target = [100, 200, 400, 800], 4000
        losses = [3.4 + 1.2 * (size / 100) ** -0.5 + rng.normal(0, 0.01) for size in (*sizes, target)]
        pilots, teacher = [drawn(loss, rng, shared_R) for loss in losses[:-1]], drawn(3.4, rng, shared_R)
        own = kept.of_texts(pilots, teacher, 300, seed)
        found = own.predict(sizes, target, seed)
        assert own.retention_N == sorted(own.retention_N) and own.retention_N[-1] < found.value
        truth = float(np.exp(3.4 - losses[-1]))
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.85


def test_a_ratio_of_texts_is_the_teachers_perplexity_over_the_students() -> None:
    student, teacher = Likely(np.full(ROWS, 90.0), TOKENS_R), Likely(np.full(ROWS, 60.0), TOKENS_R)
    own = kept.of_texts([student] * 3, teacher, 50, 0)
    assert teacher.likelihood == pytest.approx(np.exp(-2)) and own.retention_N[0] == pytest.approx(np.exp(-1))
    assert np.allclose(own.values_DN, 0.0) and own.back(0.0) == pytest.approx(np.exp(-1)) and own.noise < 1e-9


def test_what_a_pilot_noted_of_its_texts_is_read_again() -> None:
    one = Likely(np.array([12.34567, 0.5]), np.array([3, 1]))
    noted = worth.facts(worth.Worth(one.likelihood, 1.0, 10, np.zeros(0, bool), one))
    again = likely.read(noted)
    assert again.likelihood == pytest.approx(one.likelihood, rel=1e-4) and again.tokens_R.tolist() == [3, 1]
    assert not len(worth.right_of(noted))
