"""Curation keeps a row or says why not, and refuses a set whose rows are all alike; what it did can be read."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import schema
from cluster.errors import DataError, RecipeError, StepFailed
from cluster.recipe import Recipe, Term
from cluster.store import Artifact, Store
from jobs import curate, generate, tasks
from jobs.after import audit, curation
from jobs.data import filters, judging
from jobs.data.filters import Rows
from jobs.data.judging import judge


def rows(embeddings: np.ndarray | None = None) -> Rows:
    samples = pa.table(
        {
            "sample_id": ["a", "b", "c", "d", "e"],
            "prompt": ["is it odd ?", "Is it  odd ?", "is it odd ?", "is it even ?", "is it even ?"],
            "images": pa.array([[b"1"], [b"1"], [b"2"], [b"1"], [b"1", b"1"]], pa.list_(pa.binary())),
            "confidence": pa.array([0.99, 0.99, 0.5, 0.9, 0.85], pa.float32()),
            "label_name": ["yes", "yes", "yes", "no", None],
            "response": ["yes", "yes", "yes", "yes", "no"],
        }
    )
    return Rows(samples, np.eye(5, dtype=np.float32) if embeddings is None else embeddings)


def terms(*names: str) -> list[Term]:
    return [Term(name=name) for name in names]


def test_every_row_is_kept_or_has_the_reason_of_the_first_filter_that_refused_it() -> None:
    judged = judge(rows(), terms("duplicate", "confidence", "agreement"))
    assert judged.reasons == [None, "duplicate", "low_confidence", "wrong_answer", "low_confidence"]


def test_a_row_without_a_true_label_cannot_disagree() -> None:
    judged = judge(rows(), terms("agreement"))
    assert judged.reasons == [None, None, None, "wrong_answer", None]


def test_the_confidence_cut_can_be_a_percentile() -> None:
    cut = Term(name="confidence", params={"minimum": 0.4, "mode": "percentile"})
    judged = judge(rows(), [cut])
    assert judged.kept.tolist() == [True, True, False, True, False]


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(5, 8))
    unit = (unit / np.linalg.norm(unit, axis=1, keepdims=True)).astype(np.float32)
    cosines = unit @ unit.T
    expected = 1 - (cosines.sum() - 5) / 20
    judged = judge(rows(unit), terms("diversity"))
    assert judged.gates["diversity"] == pytest.approx(expected, abs=1e-5)


def test_a_set_whose_rows_are_alike_is_refused_with_its_diversity() -> None:
    alike = np.tile(np.array([[1.0, 0.0]], np.float32), (5, 1))
    with pytest.raises(StepFailed, match=r"diversity of the kept set is 0\.000, expected above 0\.7"):
        judge(rows(alike), terms("diversity"))


def test_unknown_filters_and_parameters_are_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="unknown filter"):
        filters.check(terms("duplicates"))
    with pytest.raises(RecipeError, match=r"curate.filters.0.params.min"):
        filters.check([Term(name="confidence", params={"min": 0.5})])


def test_a_refused_row_keeps_filter_reason_score_and_the_row_it_repeats() -> None:
    judged = judge(rows(), terms("duplicate", "confidence"))
    told = curate.table(rows().samples.append_column("entropy", pa.nulls(5, pa.float32())), judged, np.arange(5.0))
    schema.check(told, "curation")
    assert told.select(["filter", "reason", "twin"]).to_pylist()[1:3] == [
        {"filter": "duplicate", "reason": "duplicate", "twin": "a"},
        {"filter": "confidence", "reason": "low_confidence", "twin": None},
    ]
    assert told["score"].to_pylist() == [None, None, 0.5, None, pytest.approx(0.85)]
    assert judged.counts == {"duplicate": 1, "low_confidence": 2}
    assert list(judged.counts) == ["duplicate", "low_confidence"]


def test_targets_are_checked_before_anything_runs(tiny_digits: Callable[..., Recipe]) -> None:
    with pytest.raises(RecipeError, match=r"curate.targets: no such column"):
        curate.check(tiny_digits("curate.targets={colour: {red: 1.0}}"))
    with pytest.raises(RecipeError, match=r"curate.targets.slice"):
        curate.check(tiny_digits("curate.targets={slice: {digit: 0.0}}"))
    curate.check(tiny_digits("curate.targets={slice: {digit: 0.5, even: 0.5}}"))


def test_the_distance_to_a_target_is_half_the_sum_of_differences_of_shares() -> None:
    table = pa.table({"slice": ["a", "a", "a", "b", None]})
    told = curation.distance(table, "slice", {"a": 1.0, "c": 1.0})
    assert told["shares"] == {
        "a": {"wanted": 0.5, "kept": 0.6},
        "c": {"wanted": 0.5, "kept": 0.0},
        "(other)": {"wanted": 0.0, "kept": 0.4},
    }
    assert told["distance"] == pytest.approx(0.5)


def test_distinct_n_counts_different_words_and_pairs() -> None:
    assert curation.distinct(["a b c", "A b d"]) == {"distinct_1": 4 / 6, "distinct_2": 3 / 4}
    assert curation.distinct([]) == {"distinct_1": 0.0, "distinct_2": 0.0}


@pytest.fixture
def curated(tiny_digits: Callable[..., Recipe], store: Store) -> Artifact:
    """The curated artifact of real requests with the true answers, two wrong ones, and two that the teacher doubted."""
    filters_asked = "[{name: duplicate}, {name: agreement}, {name: confidence}]"
    recipe = tiny_digits(
        f"curate.filters={filters_asked}", "curate.audit_rows=7", "curate.targets={slice: {digit: 1.0}}"
    )
    requests = tasks.of(recipe).requests("train").sort_by("sample_id")
    answers = requests["label_name"].to_pylist()
    answers[:2] = ["nonsense", "nonsense"]
    columns = {
        "response": answers, "confidence": [0.2, *[0.9] * 62, 0.3], "entropy": [0.1] * 64, "status": ["ok"] * 64,
        "teacher": ["here"] * 64, "attempts": [1] * 64,
    }  # fmt: skip
    samples = requests
    for name, values in columns.items():
        samples = samples.append_column(name, pa.array(values, schema.schema("samples").field(name).type))
    labels = pa.table(
        {
            name: pa.array([value] * 64, schema.schema("soft_labels").field(name).type)
            for name, value in soft_label().items()
        }
    ).set_column(0, "sample_id", requests["sample_id"])
    step = generate.STEP
    parents = {parent.kind: parent.id(recipe) for parent in step.parents}
    with store.draft(
        step.kind, step.id(recipe), section=step.section(recipe), parents=parents, step_version=step.version
    ) as draft:
        pq.write_table(schema.conform(samples, "samples"), draft.path / "samples.parquet")
        pq.write_table(schema.conform(labels, "soft_labels"), draft.path / "soft_labels.parquet")
    return curate.STEP.run(recipe, store)


def soft_label() -> dict[str, object]:
    """One position over three classes at 0.7, 0.2 and 0.1, and no hidden states."""
    logits = np.log(np.array([0.7, 0.2, 0.1])) - np.log(0.7)
    return {
        "sample_id": "", "form": "dense", "positions": 1, "vocabulary": 3, "temperature": 1.0, "draws": 0,
        "logits": logits.astype(np.float16), "entropy": [np.float16(0.8)], "hidden": [], "hidden_scale": [],
    }  # fmt: skip


def test_the_step_writes_verdicts_a_page_and_an_audit_sheet_and_notes_what_it_measured(curated: Artifact) -> None:
    verdicts = pq.read_table(curated.path() / "curation.parquet")
    schema.check(verdicts, "curation")
    facts = curated.manifest.facts
    assert facts["reasons"] == {"wrong_answer": 2, "low_confidence": 1}
    assert (facts["in"], facts["kept"]) == (64, 61)
    assert sum(one["kept"] for one in facts["difficulty"]) == 61
    assert set(facts["diversity"]) == set(facts["words"]) == {"before", "after"}
    assert 0 < facts["targets"]["slice"]["distance"] < 1
    page = (curated.path() / "curation.html").read_text()
    assert "wrong answer" in page and "nonsense" in page and page.count("<svg") == 6
    assert 'src="http' not in page and 'href="http' not in page.replace('xlink:href="#', "")
    with (curated.path() / "audit.csv").open(newline="", encoding="utf-8-sig") as file:
        sheet = list(csv.DictReader(file))
    kept = set(verdicts.filter(verdicts["kept"])["sample_id"].to_pylist())
    assert len(sheet) == 7 and {row["sample_id"] for row in sheet} <= kept
    assert all((curated.path() / name).is_file() for row in sheet for name in row["pictures"].split())


def filled(path: Path, marks: list[str]) -> Path:
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        sheet = csv.DictWriter(file, audit.COLUMNS, restval="")
        sheet.writeheader()
        sheet.writerows({"sample_id": str(place), "right": mark} for place, mark in enumerate(marks))
    return path


def test_a_filled_in_sheet_is_read_as_a_share_with_its_wilson_interval(tmp_path: Path) -> None:
    found = audit.read(filled(tmp_path / "a.csv", ["yes"] * 8 + ["No", " 0 ", "", ""]))
    assert (found.judged, found.right, found.blank, found.accuracy) == (10, 8, 2, 0.8)
    assert audit.told(found) == "80.0 % right (95 % interval 49.0 % to 94.3 %): 8 of 10 judged rows, 2 left blank"
    # Newcombe 1998, method 3: 8 of 10 has 0.4902 to 0.9433.
    assert (found.low, found.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


@pytest.mark.parametrize(
    ("marks", "told"), [(["yes", "maybe"], "row 2, column right"), (["", ""], "no row is filled in")]
)
def test_a_sheet_that_says_nothing_clear_is_refused(tmp_path: Path, marks: list[str], told: str) -> None:
    with pytest.raises(DataError, match=told):
        audit.read(filled(tmp_path / "a.csv", marks))
    with pytest.raises(DataError, match="no audit sheet there"):
        audit.read(tmp_path / "none.csv")


def test_the_same_seed_draws_the_same_sheet_and_formulas_stay_text(tmp_path: Path) -> None:
    kept = pa.table(
        {
            "sample_id": [f"{place}" for place in range(30)], "prompt": ["=1+1"] * 30, "response": ["no"] * 30,
            "images": pa.nulls(30, pa.list_(pa.binary())), "image_format": pa.nulls(30, pa.string()),
            "label_name": pa.nulls(30, pa.string()),
        }
    )  # fmt: skip
    sheets = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        audit.write(tmp_path / name, kept, 5, seed)
        sheets.append((tmp_path / name / "audit.csv").read_text())
    assert sheets[0] == sheets[1] != sheets[2]
    assert "'=1+1" in sheets[0]


def test_without_soft_labels_there_is_no_margin_and_the_others_are_ranked() -> None:
    samples = pa.table({"sample_id": ["a", "b", "c"]})
    label = {name: [value] * 2 for name, value in soft_label().items()} | {"sample_id": ["c", "a"]}
    label["logits"] = [np.array([0, -3, -3], np.float16), np.array([0, -1, -9], np.float16)]
    labels = pa.table(
        {name: pa.array(values, schema.schema("soft_labels").field(name).type) for name, values in label.items()}
    )
    margin = judging.margin_of(samples, labels)
    assert np.isnan(margin).tolist() == [False, True, False]
    assert judging.difficulty_of(margin)[[0, 2]].tolist() == [1.0, 0.0]
    assert judging.probabilities(samples, labels) is None
    own = judging.probabilities(samples.take([0, 2]), labels)
    assert own is not None and own.argmax(1).tolist() == [0, 0] and own[1, 0] > own[0, 0]
