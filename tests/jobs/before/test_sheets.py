"""Active learning end to end: the least sure rows go out as a sheet, people's labels come back above the teacher's."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cluster import schema
from cluster.errors import DataError, MismatchError
from cluster.recipe import Recipe
from cluster.recipe.labels import LabelsSection
from cluster.store import Store
from jobs import curate, distill, generate, tasks
from jobs.after import active
from jobs.before import sheets
from jobs.data import labels as forms
from serving.bundle.answer import softmax

CLASSES = ("bill", "card", "loan")
Command = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def asked(tmp_path: Path, tiny_weights: Path) -> Recipe:
    """A text recipe over thirty labelled rows with two variants each, as small as it loads."""
    words = ["where", "is", "my", "card", "the", "loan", "bill", "rate", "please", "cancel"]
    rng = np.random.default_rng(3)
    for name, count in (("train", 30), ("test", 9)):
        texts = [f"{' '.join(rng.choice(words, 5))} {CLASSES[row % 3]}" for row in range(count)]
        pq.write_table(pa.table({"text": texts, "label": [CLASSES[row % 3] for row in range(count)]}),
                       tmp_path / f"{name}.parquet")  # fmt: skip
    return Recipe.parse({
        "name": "sheet", "task": "text_classification", "promote": {"model_name": "sheet"},
        "data": {"source": "table", "train": str(tmp_path / "train.parquet"), "test": str(tmp_path / "test.parquet"),
                 "params": {"max_tokens": 16}},
        "teacher": {"architecture": "encoder", "weights": str(tiny_weights)},
        "student": {"architecture": "encoder",
                    "params": {"layers": 1, "hidden_size": 16, "heads": 2, "inner_size": 24}},
        "generate": {"views": {"dropped": 1, "swapped": 1}},
        "distill": {"stages": [{"name": "one", "epochs": 1, "learning_rate": 0.001,
                                "losses": [{"name": "forward_kl", "params": {"temperature": 4.0}}]}]},
    })  # fmt: skip


@pytest.fixture
def answered(asked: Recipe) -> tuple[pa.Table, pa.Table]:
    """Samples and dense soft labels of a teacher that is drawn at random."""
    requests = tasks.of(asked).requests("train")
    logits = np.random.default_rng(0).normal(scale=2, size=(len(requests), 3))
    p = softmax(logits.astype(np.float32))
    answers = [
        row | {"response": CLASSES[int(own.argmax())], "confidence": float(own.max()), "status": "ok", "teacher": "t",
               "attempts": 1, "entropy": float(-(own * np.log(own)).sum())}
        for row, own in zip(requests.to_pylist(), p, strict=True)
    ]  # fmt: skip
    packed = [{"sample_id": row["sample_id"], **forms.pack(own[None], LabelsSection(), 0)}
              for row, own in zip(answers, logits, strict=True)]  # fmt: skip
    labels = schema.conform(pa.Table.from_pylist(packed, schema.schema("soft_labels")), "soft_labels")
    samples = schema.conform(pa.Table.from_pylist(answers, schema.schema("samples")), "samples")
    return samples.sort_by("sample_id"), labels.sort_by("sample_id")


@pytest.fixture
def run_store(tmp_path: Path, asked: Recipe, answered: tuple[pa.Table, pa.Table]) -> Path:
    """A store with the samples and an untrained student of one run."""
    store, made = Store.open(tmp_path / "runs"), {}
    task = tasks.of(asked)
    for kind, parents in (("samples", {"teacher": "t"}), ("student", {"samples": "s"})):
        with store.draft(kind, "a" * 16, section={}, parents=parents, step_version=1) as draft:
            if kind == "samples":
                pq.write_table(answered[0], draft.path / "samples.parquet")
                pq.write_table(answered[1], draft.path / "soft_labels.parquet")
            else:
                (draft.path / "hf").mkdir()
                task.save(task.build(asked.student, 0, None), draft.path / "hf")
        made[kind] = "a" * 16
    store.write_record("runs/sheet-1", {"run": "sheet-1", "recipe": asked.model_dump(mode="json"), "artifacts": made})
    return tmp_path / "runs"


@pytest.mark.parametrize(("by", "who"), [("entropy", "teacher"), ("margin", "teacher"), ("entropy", "student"),
                                         ("margin", "student"), ("committee", "teacher")])  # fmt: skip
def test_the_sheet_holds_the_rows_that_the_model_is_least_sure_of(
    command: Command, run_store: Path, answered: tuple[pa.Table, pa.Table], tmp_path: Path, by: str, who: str
) -> None:
    code, said = command("sheet", "latest", "--rows", 4, "--by", by, "--who", who, "--store", run_store, "--out", "out")
    assert (code, said["rows"], said["candidates"]) == (0, 4, answered[0]["label_name"].null_count)
    with (tmp_path / "out/sheet.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["sample_id", "text", "image", "teacher_answer", "confidence", "doubt", "label"]
    assert [row["sample_id"] for row in rows] == said["sample_ids"]
    assert pq.read_table(tmp_path / "out/sheet.parquet")["sample_id"].to_pylist() == said["sample_ids"]
    samples = {row["sample_id"]: row for row in answered[0].to_pylist()}
    for row in rows:
        sample = samples[row["sample_id"]]
        assert (row["text"], row["teacher_answer"], row["label"]) == (sample["prompt"], sample["response"], "")
        assert sample["label_name"] is None, "a person is not asked for what is known"
    doubts = [float(row["doubt"]) for row in rows]
    assert max(doubts) == doubts[0]
    if (by, who) == ("entropy", "teacher"):
        unlabelled = sorted((row["entropy"] for row in samples.values() if row["label_name"] is None), reverse=True)
        assert doubts[0] == pytest.approx(unlabelled[0])
        assert min(doubts) >= unlabelled[5 * 4 - 1] - 1e-6, "all from the five times four least sure"
    again = command("sheet", "sheet-1", "--rows", 4, "--by", by, "--who", who, "--store", run_store, "--out", "two")[1]
    assert again["sample_ids"] == said["sample_ids"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 1, "runs there: sheet-1"),
        (["latest", "--by", "entropie"], 2, "entropy, margin, committee"),
        (["latest", "--who", "parent"], 2, "teacher, student"),
        (["latest", "--rows", "0"], 2, "1 or more"),
    ],
)
def test_a_sheet_that_cannot_be_is_one_readable_error(
    command: Command, run_store: Path, arguments: list[str], code: int, message: str
) -> None:
    ended, said = command("sheet", *arguments, "--store", run_store)
    assert (ended, message in said["message"]) == (code, True)


def test_rows_that_all_have_labels_leave_nothing_to_ask(answered: tuple[pa.Table, pa.Table]) -> None:
    samples, labels = answered
    known = samples.filter(samples["label_name"].is_valid())
    with pytest.raises(DataError, match="has a true label already"):
        active.unlabelled(known, labels)


probabilities = arrays.arrays(np.float32, (4, 5), elements=st.floats(-20, 20, width=32)).map(softmax)


@settings(deadline=None, max_examples=50)
@given(probabilities, probabilities)
def test_the_committee_measure_is_a_divergence(p: np.ndarray, q: np.ndarray) -> None:
    value = active.jensen_shannon(p, q)
    assert np.all((value >= 0) & (value <= np.log(2) + 1e-6))
    assert value == pytest.approx(active.jensen_shannon(q, p), abs=1e-9)
    assert active.jensen_shannon(p, p) == pytest.approx(np.zeros(4), abs=1e-9)


def test_the_spread_takes_one_row_of_every_group_before_a_second() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(6, dtype=np.float32)
    rows = np.repeat(centres, 10, 0) + rng.normal(scale=0.01, size=(60, 6)).astype(np.float32)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    chosen = active.spread(unit, 6)
    assert sorted(chosen // 10) == [0, 1, 2, 3, 4, 5]
    assert chosen[0] == 0
    assert len(set(active.spread(np.ones((5, 1), np.float32), 5).tolist())) == 5


def filled(path: Path, labels: dict[str, Any]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("sample_id", "text", "label"), *[(own, "x", label) for own, label in labels.items()]]
        )
    return path


def test_a_persons_label_replaces_the_teachers_answer_and_all_doubt_of_it(
    answered: tuple[pa.Table, pa.Table], tmp_path: Path
) -> None:
    samples, _ = answered
    ids = samples["sample_id"].to_pylist()
    path = filled(tmp_path / "s.csv", {ids[0]: "loan", ids[1]: "", ids[2]: "laon", "0" * 16: "card", ids[3]: " card "})
    sheet = sheets.read_sheet(path)
    assert sheet.empty == 1
    applied = sheets.apply_sheet(samples, sheet, CLASSES)
    assert applied.changed == sorted([ids[0], ids[3]])
    assert [(one.row, one.reason) for one in applied.refused] == [(2, "unknown_label"), (3, "unknown_id")]
    assert "did you mean loan" in applied.refused[0].detail
    rows = {row["sample_id"]: row for row in applied.samples.to_pylist()}
    assert [rows[ids[0]][name] for name in ("label", "label_name", "response", "confidence", "entropy")] == [
        2, "loan", "loan", 1.0, 0.0,
    ]  # fmt: skip
    for own, row in rows.items():
        before = next(one for one in samples.to_pylist() if one["sample_id"] == own)
        source = "person" if own in applied.changed else "data" if before["label_name"] else None
        assert row[sheets.SOURCE] == source
        assert own in applied.changed or {name: row[name] for name in before} == before
    schema.check(applied.samples, "samples")


def test_free_text_answers_take_any_label(answered: tuple[pa.Table, pa.Table], tmp_path: Path) -> None:
    own = answered[0]["sample_id"][0].as_py()
    applied = sheets.apply_sheet(answered[0], sheets.read_sheet(filled(tmp_path / "s.csv", {own: "whatever"})))
    assert applied.samples.to_pylist()[0]["response"] == "whatever"


def test_two_labels_for_one_row_are_refused_and_so_is_an_empty_sheet(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("sample_id,label\na,card\na,loan\nb,bill\nb,bill\n,bill\n")
    sheet = sheets.read_sheet(path)
    assert sheet.labels == {"b": "bill"}
    assert [one.reason for one in sheet.refused] == ["null_id", "contradiction"]
    with pytest.raises(DataError, match="holds no label"):
        sheets.read_sheet(filled(tmp_path / "e.csv", {"a": "", "b": " "}))
    with pytest.raises(DataError, match="did you mean 'labels'"):
        (tmp_path / "n.csv").write_text("sample_id,labels\na,b\n")
        sheets.read_sheet(tmp_path / "n.csv")


def test_a_sheet_saved_as_parquet_reads_the_same(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample_id": ["a", "b"], "label": [3.0, None]}), tmp_path / "s.parquet")
    assert sheets.read_sheet(tmp_path / "s.parquet").labels == {"a": "3"}


def test_a_cell_that_a_spreadsheet_would_compute_is_written_as_text(
    answered: tuple[pa.Table, pa.Table], tmp_path: Path
) -> None:
    evil = answered[0].slice(0, 1).to_pylist()[0] | {"prompt": '=HYPERLINK("http://x")'}
    active.write_sheet(pa.Table.from_pylist([evil], answered[0].schema), np.zeros(1), tmp_path)
    assert "\"'=HYPERLINK" in (tmp_path / "sheet.csv").read_text()


def test_what_the_student_learns_is_the_persons_label(
    asked: Recipe, answered: tuple[pa.Table, pa.Table], tmp_path: Path
) -> None:
    samples, labels = answered
    answers = dict(zip(samples["sample_id"].to_pylist(), samples["response"].to_pylist(), strict=True))
    said = {own: CLASSES[(CLASSES.index(answer) + 1) % 3] for own, answer in list(answers.items())[:5]}
    recipe = Recipe.parse(asked.model_dump(mode="json") | {"curate": {"labels": str(filled(tmp_path / "s.csv", said))}})
    sheets.check(recipe)
    now, hard, facts = sheets.with_people(recipe, samples, labels, tmp_path)
    assert facts == {"people": {"labelled": 5, "refused": []}}
    again, same = sheets.overlay_samples(samples, tmp_path), sheets.overlay_labels(labels, tmp_path)
    assert again.equals(now.select(again.column_names))
    assert same.equals(hard)
    columns = tasks.of(recipe).pack(again, same, true_labels=False)
    p = softmax(columns["teacher_logits"][:, 0].astype(np.float32))
    for place, own in enumerate(again["sample_id"].to_pylist()):
        expected = said[own] if own in said else answers[own]
        assert CLASSES[columns["target"][place]] == expected
        if own in said:
            assert p[place].max() == pytest.approx(sheets.CERTAIN, abs=1e-4)
    assert sheets.overlay_samples(samples, tmp_path / "no") is samples
    assert curate.STEP.id(recipe) != curate.STEP.id(asked)
    (tmp_path / "moved.csv").write_bytes((tmp_path / "s.csv").read_bytes())
    moved = recipe.model_copy(
        update={"curate": recipe.curate.model_copy(update={"labels": str(tmp_path / "moved.csv")})}
    )
    assert curate.STEP.id(moved) == curate.STEP.id(recipe), "what is in the sheet counts, not where it lies"


def test_soft_labels_of_texts_cannot_be_made_certain(answered: tuple[pa.Table, pa.Table]) -> None:
    row = answered[1].slice(0, 1).to_pylist()[0] | {"positions": 2}
    with pytest.raises(MismatchError, match="dense soft labels of one position"):
        sheets.harden(pa.Table.from_pylist([row], answered[1].schema), {row["sample_id"]: 1})


def test_curation_and_distillation_take_the_sheet(
    asked: Recipe, answered: tuple[pa.Table, pa.Table], tmp_path: Path
) -> None:
    """The real step on the real artifact: rows of low confidence that a person labelled are kept with that label."""
    samples, labels = answered
    unsure = samples.sort_by("confidence").slice(0, 3).to_pylist()
    said = {row["sample_id"]: CLASSES[(CLASSES.index(row["response"]) + 1) % 3] for row in unsure}
    terms = [{"name": "confidence", "params": {"minimum": 0.7}}, {"name": "agreement"}]
    section = {"filters": terms, "min_kept_share": 0.0, "labels": str(filled(tmp_path / "s.csv", said))}
    recipe = Recipe.parse(asked.model_dump(mode="json") | {"curate": section})
    store = Store.open(tmp_path / "store")
    with store.draft("samples", generate.STEP.id(recipe), section={}, parents={"t": "t"}, step_version=1) as draft:
        pq.write_table(samples, draft.path / "samples.parquet")
        pq.write_table(labels, draft.path / "soft_labels.parquet")
    curated = curate.STEP.run(recipe, store)
    assert curated.manifest.facts["people"]["labelled"] == 3
    assert json.dumps(curated.manifest.facts["licences"])
    verdicts = {row["sample_id"]: row for row in pq.read_table(curated.path() / "curation.parquet").to_pylist()}
    assert all(verdicts[own]["kept"] for own in said)
    parents = {"samples": store.get("samples", generate.STEP.id(recipe)), "curated": curated}
    kept, soft = distill.curated(parents)
    rows = {row["sample_id"]: row for row in kept.to_pylist()}
    assert {own: rows[own]["response"] for own in said} == said
    columns = tasks.of(recipe).pack(kept, soft, true_labels=False)
    targets = dict(zip(kept["sample_id"].to_pylist(), columns["target"].tolist(), strict=True))
    assert {own: CLASSES[targets[own]] for own in said} == said
