"""Whole rounds of watch where rows are more than texts with a class: pictures, questions about them, retrieval."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import pauses
from cluster.recipe import Gates, Recipe, load
from cluster.store import Store, tables
from jobs import evaluate, generate, pipeline, tasks, watch
from jobs.after.watching import asked, rounds
from jobs.data import picture_views
from jobs.data.augment import decoded, encoded
from jobs.data.items import item_of
from serving.bundle import predict
from serving.bundle.image_classes import Frame, read
from serving.traffic import verdicts
from serving.traffic.verdicts import Verdict

OPEN = [f"evaluate.gates.{name}=null" for name in Gates.model_fields]
QUICK = ["distill.control=false", "evaluate.bootstrap=100", "evaluate.latency_requests=20", "watch.rows_min=1"]
PICTURES = [
    "teacher.params={stem: 16, widths: [32, 48], depths: [1, 1]}",
    "student.params={stem: 8, widths: [16, 24], strides: [1, 2]}",
    "fit.stages.0.min_steps=0", "fit.stages.0.epochs=4", "fit.engine.workers=1", "distill.engine.workers=1",
    "generate.views={count: 1, shift: 0.12, turn: 10.0}", "generate.hidden_layer=null",
    "distill.stages=[{name: soft, epochs: 8, learning_rate: 0.005, losses: [{name: forward_kl, params: "
    "{temperature: 4.0}}]}]",
]  # fmt: skip


def serve(store: Store, record: dict[str, Any], requests: Sequence[dict[str, Any]]) -> None:
    """Traffic of the run's promoted bundle as the gateway logs it, with the true answers from feedback, and the verdict
    that quality fell."""
    facts = store.get("promotion", record["artifacts"]["promotion"]).manifest.facts
    assert facts["alias"] == "champion"
    model, version = facts["model"], str(facts["version"])
    engine, rows = predict.load(store.get("bundle", record["artifacts"]["bundle"]).path()), []
    for number, row in enumerate(requests):
        answer = engine.predict([item_of(row)])[0]
        rows.append({"request_id": f"r{number}", "at": 1000 + number, "model": model, "version": version,
                     "arm": "champion", "prompt": row["prompt"] or None, "images": row["images"],
                     "answer": answer.text, "confidence": answer.confidence, "fell_back": False, "latency_ms": 1.0,
                     "label": row["label_name"]})  # fmt: skip
    tables.append(store, "traffic", model, rows, 2000)
    known: dict[str, Any] = {"value": 0.8, "reference": 1.0, "drop": 0.2, "rows": len(rows)}
    known |= {"window_start": 0, "window_end": 9000}
    verdicts.append(store, Verdict(9500, "drift", model, version, "accuracy", "recurate", **known))


def promoted(recipe: Recipe, store: Store, quiet: Any) -> dict[str, Any]:
    """A whole run, whose student is the champion."""
    pipeline.check(recipe, store)
    return pipeline.run(recipe, store, quiet, [*watch.MEASURE, "promote"])


def learned(store: Store, done: dict[str, Any]) -> list[dict[str, Any]]:
    """The mined rows among those that the round's student was taught, with the teacher's answers."""
    own = rounds.recipe_of(store.get("round", done["repair"]["round"]))
    samples = generate.STEP.find(own, store)
    assert samples is not None
    rows: list[dict[str, Any]] = pq.read_table(samples.path() / "samples.parquet").to_pylist()
    return [row for row in rows if row["template"] == asked.ORIGIN]


def shown_by(row: dict[str, Any]) -> tuple[str, ...]:
    """Question and pixels of a row, however its pictures are written."""
    return row["prompt"], *(read(one, Frame(8, 1)).tobytes().hex() for one in row["images"])


def forgotten(store: Store, run: str) -> dict[str, Any]:
    """`forgetting` of a run's report."""
    record = store.read_record(f"runs/{run}")
    assert record is not None
    told: dict[str, Any] = evaluate.report_of(store.get("report", record["artifacts"]["report"]))["forgetting"]
    return told


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_class_of_pictures_that_was_unlearned_is_learned_again_from_the_pictures_of_the_traffic(
    store: Store, relabelled: Callable[..., str], quiet: Any, without_ray: None
) -> None:
    good = load("image_classification", [*PICTURES, *QUICK, *OPEN])
    for step in (pipeline.VERBS["fit"][0], generate.STEP):
        step.run(good, store)
    eights = relabelled(good, store, "three", "eight")
    bad = load("image_classification", [*PICTURES, *QUICK, *OPEN, f"curate.labels={eights}"])
    record = promoted(bad, store, quiet)
    own = asked.own_requests(good).slice(0, 400).to_pylist()
    pixels = np.stack([decoded(row["images"][0]) for row in own])[..., None]
    moved = picture_views.moved(pixels, picture_views.Views(shift=0.1, turn=8.0), np.random.default_rng(5))[..., 0]
    seen = [row | {"images": [encoded(one)]} for row, one in zip(own, moved, strict=True)]
    serve(store, record, seen)
    done = watch.once(good, store, quiet)
    told = done["repair"]
    assert "answers: three becomes eight" in told["slices"][:3]  # so small a student may be unsure of much else, too
    assert told["held_out"]["after"] > told["held_out"]["before"] + 0.2, told
    mined = learned(store, done)
    assert np.mean([row["response"] == "three" for row in mined if row["label_name"] == "three"]) > 0.8
    assert pauses.find(store, good.promote.model_name) is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_of_the_default_task_asks_the_teacher_the_questions_and_pictures_of_the_traffic(
    tiny_digits: Callable[..., Recipe], store: Store, quiet: Any, without_ray: None
) -> None:
    recipe = tiny_digits(*QUICK, "watch.old_rows=5", "generate.concurrency=1", "distill.engine.workers=1")
    record = promoted(recipe, store, quiet)
    seen = tasks.of(tiny_digits("generate.seed=7", "generate.samples=120")).requests("train")
    seen = seen.filter(pa.array([name is not None for name in seen["label_name"].to_pylist()]))
    serve(store, record, seen.to_pylist())
    done = watch.once(recipe, store, quiet)
    told = done["repair"]
    mined, shown = learned(store, done), {shown_by(row) for row in seen.to_pylist()}
    assert mined and all(row["response"] and shown_by(row) in shown for row in mined)
    assert told["challenger"]["alias"] == "challenger" and told["held_out"]["rows"] > 0
    report = forgotten(store, told["run"])
    assert report["metric"] == "exact_match"
    assert pauses.find(store, "digits") is None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_round_of_retrieval_learns_from_questions_whose_entry_feedback_named_and_reports_what_is_forgotten(
    letters: str, store: Store, tmp_path: Path, quiet: Any, without_ray: None
) -> None:
    plants = ["apple", "pear", "plum", "grape", "oak", "elm", "ash", "fir", "iron", "gold", "zinc", "lead"]
    files = {}
    for split, asks in (("train", ("what is {}", "tell me of {}", "is {} old")), ("test", ("about {} please",))):
        files[split] = str(tmp_path / f"{split}.csv")
        with Path(files[split]).open("w", newline="") as file:
            rows = [(ask.format(own), f"The {own} is a thing.") for ask in asks for own in plants]
            csv.writer(file).writerows([("text", "answer"), *rows])
    stage = {"name": "one", "epochs": 4, "learning_rate": 0.01, "losses": [{"name": "forward_kl"}]}
    gates = dict.fromkeys(Gates.model_fields)
    recipe = Recipe.parse({
        "name": "plants", "task": "retrieval", "promote": {"model_name": "plants"}, "export": {"scheme": "exact"},
        "data": {"source": "table", **files, "params": {"max_tokens": 40}},
        "teacher": {"architecture": "encoder", "weights": letters}, "fit": {"enabled": False},
        "student": {"architecture": "encoder",
                    "params": {"layers": 1, "hidden_size": 16, "heads": 2, "inner_size": 16}},
        "generate": {"blocks": 1}, "watch": {"rows_min": 1, "old_rows": 2},
        "distill": {"batch_size": 8, "stages": [stage], "control": False, "engine": {"workers": 1}},
        "evaluate": {"bootstrap": 100, "latency_requests": 20, "gates": gates},
    })  # fmt: skip
    record = promoted(recipe, store, quiet)
    task = tasks.of(recipe)
    entry = {own: name for name in task.classes or () for own in plants if own in name.lower()}
    known = task.requests("test").to_pylist()
    names = {row["prompt"].split()[1]: row["label_name"] for row in known} | entry
    blank = dict.fromkeys(("images", "audio", "frames", "fps"))
    seen = [{"prompt": f"which {own} is it {end}", "label_name": names[own]} | blank
            for own in plants for end in ("now", "here", "today", "then")]  # fmt: skip
    serve(store, record, seen)
    done = watch.once(recipe, store, quiet)
    mined = learned(store, done)
    assert mined and all(row["prompt"].startswith("which") and row["response"] for row in mined)
    told = forgotten(store, done["repair"]["run"])
    assert told["metric"] == "recall_at_1" and told["rows"] == len(plants)
    assert pauses.find(store, "plants") is None
