"""Retrieval: questions find their entry through batches, the teacher's list, the exported bundle and the metrics."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import schema
from cluster.errors import DataError, RecipeError
from cluster.recipe import Recipe
from jobs import export, tasks
from jobs.data import pairs
from jobs.measure import baselines, ranking
from jobs.packing import checking, writing
from jobs.quantize.plan import Plan
from jobs.tasks.soft_labels import record
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from jobs.training.stages.check import check
from serving.bundle import predict
from serving.bundle.answer import Answer
from serving.models import dual_encoder
from serving.teachers import open_folder, transformers
from serving.teachers.retrieval import RetrievalTeacher

PLANTS = ["apple", "pear", "plum", "grape", "oak", "elm", "ash", "fir", "iron", "gold", "zinc", "lead"]

SMALL = {"layers": 1, "hidden_size": 16, "heads": 2, "inner_size": 16}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Two questions a plant to learn from, one to test; a row without an answer is set aside."""
    named = {}
    for split, asks in (("train", ("what is {}", "tell me of {}")), ("test", ("about {} please",))):
        named[split] = str(tmp_path / f"{split}.csv")
        with Path(named[split]).open("w", newline="") as file:
            rows = [
                (ask.format(own), f"The {own} is a thing. It is called {own} by all.") for ask in asks for own in PLANTS
            ]
            csv.writer(file).writerows([("text", "answer"), *rows, ("what is nothing", "")])
    return named


@pytest.fixture
def recipe_of(files: dict[str, str], letters: str) -> Callable[..., Recipe]:
    """A retrieval recipe over the files, its teacher reading letters."""

    def make(**changes: Any) -> Recipe:
        losses = [{"name": name} for name in ("forward_kl", "margin_mse", "hidden_mse")]
        return Recipe.parse({
            "name": "plants", "task": "retrieval",
            "data": {"source": "table", **files, "params": {"max_tokens": 40} | changes.pop("params", {})},
            "teacher": {"architecture": "encoder", "weights": letters},
            "student": {"architecture": "encoder", "params": SMALL},
            "fit": {"enabled": False}, "generate": {"hidden_layer": -1, "views": {"dropped": 1}},
            "distill": {"batch_size": 8, "stages": [
                {"name": "one", "epochs": 1, "learning_rate": 0.01, "losses": losses, "adapters": True}]},
            "export": {"scheme": "exact"}, "promote": {"model_name": "plants"},
        } | changes)  # fmt: skip

    return make


@pytest.fixture
def teacher(recipe_of: Callable[..., Recipe], tmp_path: Path) -> Path:
    """The folder of an unfitted teacher."""
    task, folder = tasks.of(recipe_of()), tmp_path / "teacher"
    folder.mkdir()
    task.save(task.build(task.recipe.teacher, 0), folder)  # type: ignore[attr-defined]
    return folder


def answered(task: tasks.Task, folder: Path) -> tuple[pa.Table, pa.Table]:
    """Training requests and the teacher's soft labels of them."""
    spec = json.loads((folder / "task.json").read_text())
    requests, model = task.requests("train"), RetrievalTeacher.open(folder, spec)
    replies = model.complete([model.prompt({"text": text}) for text in requests["prompt"].to_pylist()])
    rows = [record(own, reply, True) for own, reply in zip(requests["sample_id"].to_pylist(), replies, strict=True)]
    return requests, schema.conform(pa.Table.from_pylist(rows, schema.schema("soft_labels")), "soft_labels")


def test_entries_are_one_list_and_their_sentences_are_asked_without_a_label(recipe_of: Callable[..., Recipe]) -> None:
    task = tasks.of(recipe_of())
    task.check()
    requests = task.requests("train")
    assert len(task.classes or ()) == len(PLANTS)
    assert len(set(requests["sample_id"].to_pylist())) == len(requests)
    labelled = [row for row in requests.to_pylist() if row["label_name"] is not None]
    assert {row["prompt"] for row in labelled} & {f"what is {own}" for own in PLANTS}
    assert "The oak is a thing." in requests["prompt"].to_pylist()
    assert task.dead_letters()[0]["reason"] == "null_text"
    plain = tasks.of(recipe_of(params={"sentences": False})).requests("train")
    assert "The oak is a thing." not in plain["prompt"].to_pylist()


def test_a_batch_holds_its_own_entries_and_the_nearest_ones(recipe_of: Callable[..., Recipe], teacher: Path) -> None:
    task = tasks.of(recipe_of(params={"nearest": 2}))
    requests, labels = answered(task, teacher)
    columns = task.pack(requests, labels, true_labels=False)
    rows = np.array([0, 5, 9])
    batch = task.batch(columns, rows)
    logits_RE = columns["teacher_logits"][rows, 0].astype(np.float32)
    wanted = sorted({*columns["target"][rows].tolist(), *np.argsort(-logits_RE)[:, :2].flatten().tolist()})
    assert np.allclose(batch["teacher_logits"], logits_RE[:, wanted])
    assert [wanted[own] for own in batch["targets"].tolist()] == columns["target"][rows].tolist()
    network = task.load(str(teacher))
    logits_BC, question_BH = task.scored(network, batch)
    assert logits_BC.shape == (3, len(wanted))
    shift = (logits_BC.detach() - batch["teacher_logits"]).numpy()
    assert np.allclose(shift, shift[:, :1], atol=0.05)  # the cache is float16, minus the row's largest
    assert torch.equal(question_BH, task.scored(network, batch)[1])


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_a_student_learns_the_list_and_its_bundle_ranks_it(
    recipe_of: Callable[..., Recipe], teacher: Path, tmp_path: Path
) -> None:
    recipe = recipe_of()
    task = tasks.of(recipe)
    requests, labels = answered(task, teacher)
    (tmp_path / "initial").mkdir()
    task.save(task.build(recipe.student, 0, teacher), tmp_path / "initial")
    table.write(tmp_path / "rows.arrow", task.pack(requests, labels, true_labels=False))
    table.write(tmp_path / "validation.arrow", task.validation_columns())
    stage = recipe.distill.stages[0].model_copy(update={"epochs": 15.0})
    job = Job(recipe, "distill", str(tmp_path / "initial"), str(tmp_path / "rows.arrow"),
              str(tmp_path / "validation.arrow"), (stage,), 8, recipe.distill.engine, 32)  # fmt: skip
    trained = run_local(job, tmp_path / "run")
    (told,) = trained.progress["stages"]
    assert set(told["after"]) == {"recall_at_1", "recall_at_5", "recall_at_10", "mrr"}
    plain, quantized = tmp_path / "float32", tmp_path / "bundle"
    quantized.mkdir()
    spec = export.plain(trained.weights, plain, recipe)
    writing.describe(quantized, spec | writing.student(plain, quantized, recipe, Plan("exact")), recipe)
    items = [{"text": f"what is {own}"} for own in PLANTS]
    assert checking.difference(trained.weights, plain, items) < 1e-3
    teacher_says = transformers.load(teacher).answer(items)
    bundle = predict.load(quantized)
    said = bundle.predict(items)
    assert np.mean([one.text == other.text for one, other in zip(said, teacher_says, strict=True)]) > 0.5
    shown = said[0].probabilities or {}
    assert len(shown) == 10
    assert list(shown.values()) == sorted(shown.values(), reverse=True)
    assert said[0].text == next(iter(shown))
    assert [one.tolist() for one in bundle.logits(items)[:2]] == [bundle.logits([own])[0].tolist() for own in items[:2]]


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_a_host_without_the_data_files_trains_on_what_the_initial_folder_says(
    recipe_of: Callable[..., Recipe], teacher: Path, files: dict[str, str], tmp_path: Path
) -> None:
    recipe = recipe_of()
    task, initial = tasks.of(recipe), tmp_path / "initial"
    requests, labels = answered(task, teacher)
    initial.mkdir()
    task.save(task.build(recipe.student, 0, teacher), initial)
    table.write(tmp_path / "rows.arrow", task.pack(requests, labels, true_labels=False))
    table.write(tmp_path / "validation.arrow", task.validation_columns())
    for path in files.values():
        Path(path).unlink()
    job = Job(recipe, "distill", str(initial), str(tmp_path / "rows.arrow"), str(tmp_path / "validation.arrow"),
              recipe.distill.stages, 8, recipe.distill.engine, 32)  # fmt: skip
    made = run_local(job, tmp_path / "run").weights
    assert (made / "task.json").read_bytes() == (initial / "task.json").read_bytes()
    with pytest.raises(DataError):
        tasks.of(recipe).validation_columns()


def test_a_teacher_opened_from_its_folder_ranks_its_entries(teacher: Path) -> None:
    own = open_folder(teacher)
    (answer,) = own.answer([{"text": "The oak is a thing. It is called oak by all."}])
    assert "oak" in answer.text
    assert answer.confidence == pytest.approx(max((answer.probabilities or {}).values()))
    assert len(own.vocabulary or ()) == len(PLANTS)


def test_metrics_are_of_the_ranks() -> None:
    found = ranking.ranking_scores(np.array([1, 2, 6, np.inf]))
    assert found == {"recall_at_1": 0.25, "recall_at_5": 0.5, "recall_at_10": 0.75, "mrr": (1 + 1 / 2 + 1 / 6) / 4}
    answers = [Answer("a", 0.5, {"a": 0.5, "b": 0.3}), Answer("b", 0.9)]
    assert ranking.ranks(["b", "a"], answers).tolist() == [2, np.inf]


def test_the_baseline_finds_entries_by_their_words() -> None:
    spec = {"entries": ["how to cook rice", "where to park a car"], "labels": ["rice", "car"]}
    floor = baselines.NearestWords(spec)
    assert [one.text for one in floor.predict([{"text": "my car"}, {"text": "rice please"}])] == ["car", "rice"]


@pytest.mark.slow
def test_the_library_asks_for_its_own_documentation() -> None:
    from cluster.recipe import DataSection

    own = pairs.read(DataSection(source="python_library"), "answer", 0)
    sizes = {split: len(rows.inputs) for split, rows in own.rows.splits.items()}
    assert sizes["train"] > 3 * sizes["test"] > 600
    questions = [set(rows.inputs) for rows in own.rows.splits.values()]
    assert not questions[0] & questions[1] | questions[0] & questions[2] | questions[1] & questions[2]
    assert len(set(own.entries)) == len(own.entries) == sum(sizes.values())
    name = own.labels[0].rpartition(".")[2]
    assert own.entries[0].startswith(f"{name}: ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"teacher": {"architecture": "encoder", "params": {}}}, "encoder with weights"),
        ({"generate": {"labels": {"form": "sampled"}}}, "compared by all logits"),
        ({"generate": {"hidden_layer": 2}}, "hidden_layer"),
    ],
)
def test_what_retrieval_cannot_use_is_refused(recipe_of: Callable[..., Recipe], changes: Any, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        tasks.of(recipe_of(**changes)).check()


@pytest.mark.parametrize(
    ("name", "params"), [("tokens", {"words": ["card"]}), ("tokens", {"ids": [1]}), ("class_balanced", {})]
)
def test_a_rule_that_weighs_targets_by_their_number_is_refused_for_they_are_places_in_the_batch(
    recipe_of: Callable[..., Recipe], name: str, params: Any
) -> None:
    rule = {"name": name, "params": params}
    stage = {"name": "one", "epochs": 1, "learning_rate": 0.01, "losses": [{"name": "cross_entropy", "focus": [rule]}]}
    with pytest.raises(RecipeError, match="stage one: focus: entries of retrieval are no classes"):
        tasks.of(recipe_of(distill={"batch_size": 8, "stages": [stage]})).check()


def test_one_label_has_one_entry(recipe_of: Callable[..., Recipe], files: dict[str, str]) -> None:
    Path(files["train"]).write_text("text,answer,label\nwhat,this,1\nwhich,that,1\n")
    with pytest.raises(DataError, match="label 1 has two entries"):
        tasks.of(recipe_of()).check()


def test_pairs_without_answers_are_refused(recipe_of: Callable[..., Recipe], files: dict[str, str]) -> None:
    Path(files["train"]).write_text("text,answer\nwhat,\n")
    with pytest.raises(DataError, match="no usable pair"):
        tasks.of(recipe_of()).check()


def test_a_dual_encoder_is_cut_like_any_encoder(recipe_of: Callable[..., Recipe], teacher: Path) -> None:
    from jobs.training import students

    student = {
        "architecture": "encoder",
        "init": {"from": "pruned", "params": {"hidden_size": 16, "heads": 2, "rows": 8}},
    }
    recipe = recipe_of(student=student)
    students.check(recipe)
    network = students.begin(recipe, tasks.of(recipe), teacher)
    assert isinstance(network, dual_encoder.DualEncoder)
    assert network.config.hidden_size == 16


@pytest.mark.parametrize("loss", [{"name": "attention_transfer"}, {"name": "relation_transfer"}])
def test_questions_show_their_attention_to_a_stage_with_layers(
    recipe_of: Callable[..., Recipe], teacher: Path, tmp_path: Path, loss: dict[str, Any]
) -> None:
    stage = {"name": "one", "epochs": 4, "learning_rate": 0.01, "losses": [loss], "live_teacher": True,
             "layers": {"map": "last_k"}}  # fmt: skip
    recipe = recipe_of(distill={"batch_size": 8, "stages": [stage]})
    check(recipe, "distill", recipe.distill)
    task = tasks.of(recipe)
    requests, labels = answered(task, teacher)
    initial = tmp_path / "initial"
    initial.mkdir()
    task.save(task.build(recipe.student, 0, teacher), initial)
    table.write(tmp_path / "rows.arrow", task.pack(requests, labels, true_labels=False))
    table.write(tmp_path / "validation.arrow", task.validation_columns())
    job = Job(
        recipe=recipe, arm="distill", initial=str(initial), table=str(tmp_path / "rows.arrow"),
        validation=str(tmp_path / "validation.arrow"), stages=recipe.distill.active, batch_size=8,
        engine=recipe.distill.engine, teacher_hidden=32, teacher=str(teacher),
    )  # fmt: skip
    points = [point["loss"] for point in run_local(job, tmp_path / "run").progress["curve"]]
    assert points[-1] < points[0]
