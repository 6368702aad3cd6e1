"""The picture task on scikit-learn's digits: requests, packing, networks in their folders, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from cluster import schema
from cluster.errors import MismatchError, RecipeError
from cluster.recipe import load
from jobs import tasks
from jobs.data.answers import Answerer, labels_of
from jobs.tasks.image_classification import ImageClassification
from jobs.training import table
from jobs.training.loop import Job
from jobs.training.runner import run_local
from serving.models import image_nets
from serving.teachers import transformers as teachers

TINY = [
    "teacher.params={stem: 8, widths: [12, 16], depths: [1, 1]}",
    "student.params={stem: 4, widths: [8, 12], strides: [1, 2]}",
    "generate.views={count: 1, shift: 0.1, mixed: 0.5}",
    "generate.samples=1500",
    "fit.samples=100",
]


@pytest.fixture(scope="module")
def task() -> ImageClassification:
    """The task of a tiny recipe, checked."""
    own = tasks.of(load("image_classification", TINY))
    own.check()
    assert isinstance(own, ImageClassification)
    return own


@pytest.fixture(scope="module")
def answered(task: ImageClassification, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table]:
    """Samples and soft labels of the training requests, answered by an unfitted teacher."""
    folder = tmp_path_factory.mktemp("teacher")
    task.save(task.build(task.recipe.teacher, 0), folder)
    answers = Answerer(str(folder), task.recipe.generate, str(folder / "tally"))(task.requests("train"))
    assert set(answers["status"].to_pylist()) == {"ok"}
    samples = schema.conform(answers.append_column("teacher", pa.array(["t"] * len(answers))), "samples")
    return samples, labels_of(answers)


def test_moved_pictures_keep_their_true_label_and_mixed_ones_have_none(task: ImageClassification) -> None:
    requests = task.requests("train")
    plain = requests.filter(pc.equal(requests["view"], 0))
    views = requests.filter(pc.greater(requests["view"], 0))
    assert (len(plain), len(views)) == (1293, 207)
    assert plain["label_name"].null_count == plain["label"].null_count == 0
    named = {row["sample_id"]: row["label_name"] for row in plain.to_pylist()}
    for row in views.to_pylist():
        assert row["label_name"] == (None if row["template"] == "mixed" else named[row["parent"]])
    assert set(views["parent"].to_pylist()) <= set(plain["sample_id"].to_pylist())
    assert set(views["template"].to_pylist()) == {"moved", "mixed"}
    assert len(set(requests["sample_id"].to_pylist())) == len(requests)
    assert requests.equals(tasks.of(task.recipe).requests("train"))
    assert (len(task.requests("validation")), len(task.requests("test"))) == (144, 360)


def test_the_student_gets_the_teachers_signals_and_the_control_arm_true_labels(
    task: ImageClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    samples, labels = answered
    columns = task.pack(samples, labels, true_labels=False)
    assert columns["pixels"].shape == (1500, 8, 8, 1)
    assert columns["teacher_logits"].shape == (1500, 1, 10)
    assert columns["teacher_hidden"].shape == (1500, 1, 16)
    assert [task.classes[target] for target in columns["target"]] == samples["response"].to_pylist()
    with pytest.raises(MismatchError, match="without a true label"):
        task.pack(samples, None, true_labels=True)
    control = task.pack(samples.filter(pc.is_valid(samples["label_name"])), None, true_labels=True)
    assert 1293 < len(control["target"]) < 1500
    assert "teacher_logits" not in control


def test_a_batch_holds_what_the_network_reads_and_rows_do_not_depend_on_each_other(
    task: ImageClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    columns = task.pack(*answered, true_labels=False)
    rows = np.array([3, 700, 1499])
    batch = task.batch(columns, rows)
    assert (batch["pixels"].shape, batch["pixels"].dtype) == ((3, 1, 8, 8), torch.float32)
    assert -1 <= batch["pixels"].min() < 0 < batch["pixels"].max() <= 1
    assert batch["teacher_logits"].shape == (3, 10)
    assert task.positions(columns, rows) == 3
    model = task.build(task.recipe.student, 0).eval()
    together, pooled = task.scored(model, batch)
    assert pooled.shape == (3, task.hidden_size(model)) == (3, 12)
    alone = torch.cat([task.scored(model, task.batch(columns, rows[i : i + 1]))[0] for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_teacher_and_student_survive_their_folder_with_their_running_means(
    task: ImageClassification, tmp_path: Path
) -> None:
    columns = task.fit_columns()
    assert len(columns["target"]) == 400, "a hundred pictures and three views of each"
    for name, section in (("teacher", task.recipe.teacher), ("student", task.recipe.student)):
        model, again = (task.build(section, 1) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
        task.scored(model.train(), task.batch(columns, np.arange(32)))  # moves the running means
        task.save(model, tmp_path / name)
        for got, want in zip(
            image_nets.run(task.load(str(tmp_path / name)), columns["pixels"][:9]),
            image_nets.run(model, columns["pixels"][:9]),
            strict=True,
        ):
            assert np.array_equal(got, want)
        assert model.training, "asking leaves the mode as it was"
        teacher: Any = teachers.load(tmp_path / name)
        image = task.requests("test")["images"][0].as_py()
        (answer,) = teacher.answer([{"text": "", "images": image}])
        assert answer.text in task.classes
        assert sum((answer.probabilities or {}).values()) == pytest.approx(1, abs=1e-5)


def test_the_default_student_is_small_and_evaluation_counts_right_answers(task: ImageClassification) -> None:
    student = task.build(load("image_classification").student, 0)
    assert sum(value.numel() for value in student.parameters()) < 15_000
    columns = task.validation_columns()
    given = image_nets.run(student, columns["pixels"])[0].argmax(-1)
    assert task.evaluate(student, columns)["accuracy"] == pytest.approx(float((given == columns["target"]).mean()))


@pytest.mark.filterwarnings("default")  # DeepSpeed's import warns
def test_a_host_without_the_picture_tables_trains_and_writes_the_same_names(
    task: ImageClassification, tmp_path: Path
) -> None:
    files = {name: tmp_path / f"{name}.parquet" for name in ("train", "test")}
    for name, path in files.items():
        rows = task.requests(name).slice(0, 60).to_pylist()
        cells = {"image": [row["images"][0] for row in rows], "label": [f"digit {row['label_name']}" for row in rows]}
        pq.write_table(pa.table(cells), path)
    stage = "{name: fit, epochs: 0.1, min_steps: 2, learning_rate: 1.0e-3, losses: [{name: cross_entropy}]}"
    tables = [f"data.{name}={path}" for name, path in files.items()]
    recipe = load("image_classification", [*TINY, "data.source=table", *tables, f"fit.stages=[{stage}]"])
    there, initial = tasks.of(recipe), tmp_path / "initial"
    initial.mkdir()
    there.save(there.build(recipe.teacher, 0), initial)
    for name, columns in (("rows", there.fit_columns()), ("validation", there.validation_columns())):
        table.write(tmp_path / f"{name}.arrow", columns)
    for path in files.values():
        path.unlink()
    job = Job(recipe, "fit", str(initial), str(tmp_path / "rows.arrow"), str(tmp_path / "validation.arrow"),
              recipe.fit.active, 8, recipe.fit.engine)  # fmt: skip
    made = run_local(job, tmp_path / "run").weights
    assert (made / "task.json").read_bytes() == (initial / "task.json").read_bytes()
    assert json.loads((made / "task.json").read_text())["labels"][0] == "digit eight"


def test_the_embeddings_tell_alike_pictures_from_different_ones(
    task: ImageClassification, answered: tuple[pa.Table, pa.Table]
) -> None:
    samples = answered[0].slice(0, 200)
    unit_RE = task.embeddings(samples)
    np.testing.assert_allclose(np.linalg.norm(unit_RE, axis=1), 1, atol=1e-5)
    cosine_RR = unit_RE @ unit_RE.T
    labels = np.array(samples["label"].fill_null(-1).to_pylist())
    known = labels >= 0
    same = (labels[:, None] == labels) & known & known[:, None] & ~np.eye(len(labels), dtype=bool)
    assert cosine_RR[same].mean() > 0.3 > cosine_RR[~same & known & known[:, None]].mean() + 0.2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("teacher.architecture=encoder", "teacher.architecture"),
        ("student.weights=somewhere", "made from its sizes"),
        ("student.params={stem: 4, widths: [8], strides: [1, 2]}", "as many strides"),
        ("teacher.params={widths: [8, 8]}", "as many depths"),
        ("generate.hidden_layer=2", "layers to keep"),
        ("fit.views={mixed: 0.5}", "no one true label"),
        ("generate.views={turns: 3}", "turns"),
        ("distill.stages.0.kv_heads=1", "no key/value cache"),
        ("data.params={size: 4}", "size"),
        ("distill.engine.precision=bf16", "batch normalisation"),
        ("generate.augment=[{name: typos}]", "typos"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        tasks.of(load("image_classification", [*TINY, override])).check()
