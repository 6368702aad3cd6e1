"""A pilot of real steps: nested rows, answers that the run takes over, and a verdict on the gates."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.errors import GateFailed, InputError
from cluster.recipe import Gates, load
from cluster.store import Store
from jobs import fit, generate
from jobs.before import pilot, probe, teacher_exam

STAGE = "{name: %s, epochs: %s, min_steps: %d, learning_rate: 5.0e-3, losses: [%s]}"
OFF = [f"evaluate.gates.{name}=null" for name in Gates.model_fields]
TINY = [
    "teacher.params={stem: 8, widths: [8, 16], depths: [1, 1]}",
    "student.params={stem: 8, widths: [8, 16], strides: [1, 2]}",
    "fit.views={}",
    f"fit.stages=[{STAGE % ('fit', '1', 100, '{name: cross_entropy}')}]",
    "generate.views={count: 1, shift: 0.1}",
    "generate.blocks=1",
    f"distill.stages=[{STAGE % ('one', '2', 0, '{name: forward_kl, params: {temperature: 2.0}}')}]",
    "curate.filters=[{name: duplicate}]",
    "search.latency_requests=20",
    *OFF,
]


@pytest.mark.usefixtures("without_ray")
def test_a_probe_predicts_from_growing_pilots_and_asks_the_teacher_once_a_row(store: Store, quiet: Any) -> None:
    recipe = load("image_classification", [*TINY, "evaluate.gates.retention_min=0.1"])
    found = probe.run(recipe, store, probe.Wanted(rows=400, sizes=3, steps=1), quiet)
    assert quiet.verbs == ["fit"] and [one["rows"] for one in found["pilots"]] == [100, 200, 400]
    assert found["rows"] == 1293 and found["requests"] == 2586 and found["teacher"] > 0.3
    assert found["retention"]["low"] <= found["retention"]["value"] <= found["retention"]["high"]
    steps = [one["steps"] for one in found["pilots"]]
    assert steps == sorted(steps) and 15 < steps[-1] <= 2 * 800 / 64  # some views are duplicates
    assert set(found["seconds"]) == {"fit", "generate", "distill", "export"}
    assert found["seconds"]["distill"]["value"] > found["pilots"][-1]["seconds"]
    facts = [one.manifest.facts for one in store.list("samples")]
    assert sorted((one["requested"], one["reused"]) for one in facts) == [(200, 200), (400, 400), (800, 0)]
    assert store.attempts("exam", teacher_exam.STEP.id(recipe)) == 1
    # The run finds the teacher, and takes over what it told the pilots.
    assert fit.STEP.find(recipe, store) is not None
    run = generate.STEP.run(recipe, store).manifest.facts
    assert (run["requested"], run["reused"]) == (2586, 800)
    again = probe.run(recipe, store, probe.Wanted(rows=400, sizes=3, steps=1), quiet)
    assert again["retention"] == found["retention"] and store.read_record(f"probes/{found['run']}") == again
    # A gate that these few rows leave open: pilots are added, up to a quarter of all rows.
    recipe = load("image_classification", [*TINY, "evaluate.gates.retention_min=0.9"])
    grown = probe.run(recipe, store, probe.Wanted(rows=100, sizes=3, steps=1, grow=3), quiet)
    assert [one["rows"] for one in grown["pilots"]] == [25, 50, 100, 200]
    asked = sorted(one.manifest.facts["requested"] for one in store.list("samples"))
    assert asked == [50, 100, 200, 400, 800, 2586]  # what earlier pilots have made is found


def test_a_pilot_takes_the_steps_of_the_whole_run_up_to_a_limit() -> None:
    recipe = load("digits")  # .8, .5 and 3.5 epochs of 16,000 requests in batches of 64
    for least, told in ((10_000, [200, 125, 875]), (600, [100, 62, 438]), (1, [0, 0, 1])):
        stages = pilot.lengthened(recipe, 16_000, least).distill.stages
        assert [stage.min_steps for stage in stages] == told
    assert pilot.lengthened(load("text_classification"), 100, 1).distill.stages[0].min_steps == 400


def test_the_rows_of_a_small_pilot_are_among_those_of_a_large_one() -> None:
    pool = generate.candidates(load("image_classification", TINY))
    small, large = (set(pilot.chosen(pool, rows, 0)["sample_id"].to_pylist()) for rows in (50, 100))
    assert small < large and len(small) == 100 and len(large) == 200
    assert pilot.origins(pool) == 1293


@pytest.mark.parametrize(("low", "high", "told"), [(0.96, 0.99, "go"), (0.80, 0.90, "no-go"), (0.90, 0.99, "unsure")])
def test_the_verdict_follows_the_interval(low: float, high: float, told: str) -> None:
    recipe = load("image_classification", [*OFF, "evaluate.gates.retention_min=0.95"])
    gates = probe.judged(recipe, {"low": low, "value": (low + high) / 2, "high": high}, (0.9, 0.02), 1000)
    assert [gate["name"] for gate in gates] == ["retention_min"]
    assert gates[0]["verdict"] == probe.verdict(gates) == told
    if told == "no-go":
        with pytest.raises(GateFailed, match="retention_min"):
            probe.refuse_no_go({"gates": gates})
    else:
        probe.refuse_no_go({"gates": gates})


def test_an_engine_file_that_is_too_large_is_no_go_whatever_the_rest() -> None:
    recipe = load("image_classification", [*OFF, "evaluate.gates.bytes_max=999", "evaluate.gates.retention_min=0.5"])
    gates = probe.judged(recipe, {"low": 0.9, "value": 0.95, "high": 1.0}, (0.9, 0.02), 1000)
    assert {gate["name"]: gate["verdict"] for gate in gates} == {"retention_min": "go", "bytes_max": "no-go"}
    assert probe.verdict(gates) == "no-go"


def test_sizes_are_halves_and_never_more_than_there_are() -> None:
    assert probe.sizes_of(9000, probe.Wanted()) == [100, 200, 400, 800]
    assert probe.sizes_of(300, probe.Wanted(rows=800, sizes=3)) == [75, 150, 300]


def test_pilots_grow_while_retention_is_open_and_the_run_is_not_near() -> None:
    assert probe.grown(16_000, 800, probe.Wanted()) == [1600, 3200]
    assert probe.grown(9000, 800, probe.Wanted()) == [1600]
    assert probe.grown(16_000, 800, probe.Wanted(grow=0)) == []
    wide, narrow = {"low": 0.5, "high": 0.99}, {"low": 0.9, "high": 0.99}
    told = [(wide, "no-go"), (wide, "unsure"), (wide, "go"), (narrow, "unsure")]
    assert [probe.open_yet({"retention": kept, "verdict": one}) for kept, one in told] == [True, True, False, False]


def test_what_cannot_be_probed_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="taken away"):
        probe.check(load("image_classification", TINY), probe.Wanted(grow=-1), store)
    with pytest.raises(InputError, match="more sizes"):
        probe.check(load("image_classification", TINY), probe.Wanted(sizes=2), store)
