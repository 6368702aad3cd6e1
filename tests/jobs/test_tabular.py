"""Files of labelled texts: what is read, what is refused with one readable message, and which rows are set aside."""

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import DataError
from cluster.recipe import DataSection
from jobs.data import tabular

CLASSES = ("bill", "card", "loan")
ROWS = [(f"{CLASSES[row % 3]} question number {row}", CLASSES[row % 3]) for row in range(60)]
Section = Callable[..., DataSection]


def write_parquet(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    texts, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), path)
    return path


def write_csv(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    return path


def write_jsonl(path: Path, rows: list[tuple[Any, Any]]) -> Path:
    path.write_text("\n".join(json.dumps({"text": text, "label": label}) for text, label in rows))
    return path


@pytest.fixture
def section(tmp_path: Path) -> Section:
    """A data section over good train and test files; any field can be given."""

    def make(**fields: Any) -> DataSection:
        train, test = tmp_path / "good_train.parquet", tmp_path / "good_test.parquet"
        values = {
            "source": "table",
            "train": str(write_parquet(train, ROWS)),
            "test": str(write_parquet(test, ROWS[:9])),
        }
        return DataSection.parse(values | {name: str(v) if isinstance(v, Path) else v for name, v in fields.items()})

    return make


@pytest.mark.parametrize(("ending", "write"), [("parquet", write_parquet), ("csv", write_csv), ("jsonl", write_jsonl)])
def test_every_kind_of_file_gives_the_same_rows(section: Section, tmp_path: Path, ending: str, write: Any) -> None:
    path = write(tmp_path / f"own.{ending}", ROWS)
    data = tabular.read(section(train=path), seed=0)
    assert data.classes == CLASSES
    expected = tabular.read(section(), seed=0)
    for split in ("train", "validation", "test"):
        assert data.splits[split].inputs == expected.splits[split].inputs
        assert data.splits[split].labels.tolist() == expected.splits[split].labels.tolist()


def test_integer_labels_are_ordered_by_size_and_agree_between_kinds_of_files(section: Section, tmp_path: Path) -> None:
    numbered = [(text, row % 11) for row, (text, _) in enumerate(ROWS)]
    train, test = write_parquet(tmp_path / "i.parquet", numbered), write_csv(tmp_path / "i.csv", numbered[:20])
    data = tabular.read(section(train=train, test=test), seed=0)
    assert data.classes == tuple(str(number) for number in range(11))
    assert data.splits["test"].labels.tolist() == [label for _, label in numbered[:20]]


def test_a_column_of_names_names_the_classes(section: Section, tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": [t for t, _ in ROWS],
            "label": [CLASSES.index(c) for _, c in ROWS],
            "label_name": [c.upper() for _, c in ROWS],
        }
    )
    pq.write_table(table, tmp_path / "named.parquet")
    test = write_parquet(tmp_path / "t.parquet", [(t, CLASSES.index(c)) for t, c in ROWS[:9]])
    assert tabular.read(section(train=tmp_path / "named.parquet", test=test), seed=0).classes == (
        "BILL",
        "CARD",
        "LOAN",
    )
    odd = table.set_column(2, "label_name", pa.array(["one", *["other"] * 59]))
    pq.write_table(odd, tmp_path / "odd.parquet")
    assert tabular.read(section(train=tmp_path / "odd.parquet", test=test), seed=0).classes == ("0", "1", "2")
    with pytest.raises(DataError, match="one to one"):
        tabular.read(section(train=tmp_path / "odd.parquet", test=test, label_name_column="label_name"), seed=0)


def test_validation_is_a_stratified_cut_that_a_seed_repeats(section: Section) -> None:
    first, again, other = (tabular.read(section(validation_share=0.2), seed).splits for seed in (1, 1, 2))
    assert Counter(first["validation"].labels.tolist()) == {0: 4, 1: 4, 2: 4}
    assert (
        first["validation"].numbers.tolist()
        == again["validation"].numbers.tolist()
        != other["validation"].numbers.tolist()
    )
    assert sorted([*first["train"].numbers, *first["validation"].numbers]) == list(range(60))


def test_a_class_never_loses_its_last_training_row() -> None:
    labels = np.array([0] * 50 + [1] + [2, 2])
    rows = tabular.Rows([str(i) for i in range(53)], labels, np.arange(53))
    for seed in range(20):
        parts = tabular.cut(rows, 0.9, seed)
        assert set(parts["train"].labels.tolist()) == {0, 1, 2}


def test_classes_and_max_rows_keep_a_balanced_part(section: Section) -> None:
    data = tabular.read(section(classes=["loan", "bill"], max_rows=10), seed=0)
    assert data.classes == ("bill", "loan")
    assert Counter(data.splits["train"].labels.tolist()) == {0: 5, 1: 5}
    assert set(data.splits["test"].labels.tolist()) == {0, 1}


def test_bad_rows_inside_good_files_are_set_aside_and_counted(section: Section, tmp_path: Path) -> None:
    path = tmp_path / "some_bad.csv"
    lines = [b"text,label", *[f"{text},{label}".encode() for text, label in ROWS]]
    lines[3:3] = [b",card", b"caf\xe9 closed,card", b"no label,", b"one,two,three", b"   ,loan"]
    path.write_bytes(b"\n".join(lines) + b"\n")
    data = tabular.read(section(train=path), seed=0)
    assert [(one.row, one.reason) for one in sorted(data.dead, key=lambda one: one.row)] == [
        (2, "null_text"), (3, "undecodable"), (5, "malformed_row"), (6, "empty_text"),
    ]  # fmt: skip
    assert (data.unlabelled.inputs, data.unlabelled.numbers.tolist()) == (["no label"], [4])
    assert sum(len(data.splits[split].inputs) for split in ("train", "validation")) == 60


def test_bad_rows_of_parquet_and_jsonl_are_set_aside_too(section: Section, tmp_path: Path) -> None:
    undecodable = pa.array([b"caf\xe9", None, b"  "] + [t.encode() for t, _ in ROWS], pa.binary())
    labels = pa.array(["card"] * 3 + [c for _, c in ROWS[:-1]] + [None])
    text = pa.StringArray.from_buffers(len(undecodable), *undecodable.buffers()[1:], undecodable.buffers()[0])
    pq.write_table(pa.table({"text": text, "label": labels}), tmp_path / "b.parquet")
    data = tabular.read(section(train=tmp_path / "b.parquet"), seed=0)
    assert Counter(one.reason for one in data.dead) == {
        "undecodable": 1,
        "null_text": 1,
        "empty_text": 1,
    }
    assert data.unlabelled.inputs == [ROWS[-1][0]]
    good = [json.dumps({"text": t, "label": c}) for t, c in ROWS]
    bad = [
        "{not json",
        "[1]",
        json.dumps({"text": 3, "label": "card"}),
        json.dumps({"text": "x", "label": ["card"]}),
        json.dumps({"text": "x"}),
    ]
    (tmp_path / "b.jsonl").write_text("\n".join([*bad, *good]))
    data = tabular.read(section(train=tmp_path / "b.jsonl"), seed=0)
    assert [one.reason for one in data.dead] == [
        "malformed_row",
        "malformed_row",
        "wrong_type",
        "wrong_type",
    ]
    assert data.unlabelled.inputs == ["x"]


def test_a_test_row_without_a_label_is_set_aside_and_a_training_row_only_where_classes_are_chosen(
    section: Section, tmp_path: Path
) -> None:
    rows = [("who knows", None), *ROWS]
    texts, labels = zip(*rows, strict=True)
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "gaps.parquet")
    data = tabular.read(section(test=tmp_path / "gaps.parquet"), seed=0)
    assert [one.reason for one in data.dead] == ["null_label"]
    assert tabular.read(section(train=tmp_path / "gaps.parquet"), seed=0).unlabelled.inputs == ["who knows"]
    chosen = tabular.read(section(train=tmp_path / "gaps.parquet", classes=["loan", "bill"]), seed=0)
    assert chosen.unlabelled.inputs == []


def bad_files(folder: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Name -> fields of the data section that cannot work, and what the message must say."""
    good = (folder / "good_train.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(good[: len(good) // 2])
    middle = bytearray(good)
    middle[8:200] = b"\xff" * 192
    (folder / "flipped.parquet").write_bytes(bytes(middle))
    (folder / "noise.csv").write_bytes(bytes(range(256)) * 40)
    (folder / "noise.jsonl").write_bytes(bytes(range(128, 256)) * 40)
    (folder / "nothing.parquet").write_bytes(b"")
    (folder / "header.csv").write_text("text,label\n")
    (folder / "notes.txt").write_text("hello")
    pq.write_table(pa.table({"txt": ["a"], "label": [1]}), folder / "misnamed.parquet")
    (
        write_parquet(folder / "empty.parquet", ROWS[:1]),
        pq.write_table(pq.read_table(folder / "empty.parquet").slice(1), folder / "empty.parquet"),
    )
    write_parquet(folder / "nulls.parquet", [("text", None), (None, "card")])
    write_parquet(folder / "alike.parquet", [(text, "card") for text, _ in ROWS])
    write_parquet(folder / "single.parquet", [("a", "bill"), ("b", "card"), ("c", "loan")])
    write_parquet(folder / "unknown.parquet", [*ROWS[:5], ("help", "crypto")])
    (folder / "folder.parquet").mkdir()
    return {
        "missing": ({"train": folder / "good_trian.parquet"}, "did you mean .*good_train.parquet"),
        "a folder": ({"train": folder / "folder.parquet"}, "no such data file"),
        "not given": ({"test": None}, "data.test is not given"),
        "cut short": ({"train": folder / "cut.parquet"}, "cannot be read as parquet"),
        "flipped bytes": ({"train": folder / "flipped.parquet"}, "cannot be read as parquet"),
        "noise as csv": ({"train": folder / "noise.csv"}, "cannot be read as csv|has no column 'text'"),
        "noise as jsonl": ({"train": folder / "noise.jsonl"}, "holds no JSON object"),
        "no bytes": ({"train": folder / "nothing.parquet"}, "is empty"),
        "only a header": ({"train": folder / "header.csv"}, "holds no usable row"),
        "no rows": ({"test": folder / "empty.parquet"}, "holds no usable row"),
        "only nulls": ({"train": folder / "nulls.parquet"}, "holds no usable row"),
        "another ending": ({"train": folder / "notes.txt"}, "unknown kind of file"),
        "column missing": ({"train": folder / "misnamed.parquet"}, "did you mean 'txt'"),
        "named column missing": ({"label_name_column": "name"}, "has no column 'name'"),
        "one class": ({"train": folder / "alike.parquet", "test": folder / "alike.parquet"}, "same rows"),
        "too few to cut": ({"train": folder / "single.parquet"}, "too few rows to cut"),
        "label outside the set": ({"test": folder / "unknown.parquet"}, "crypto in 1 rows, the first is row 5"),
        "unknown class": ({"classes": ["crad", "bill"]}, "did you mean card"),
        "one class kept": ({"classes": ["card"]}, "too few classes"),
    }


CASES = (
    "missing",
    "a folder",
    "not given",
    "cut short",
    "flipped bytes",
    "noise as csv",
    "noise as jsonl",
    "no bytes",
    "only a header",
    "no rows",
    "only nulls",
    "another ending",
    "column missing",
    "named column missing",
    "one class",
    "too few to cut",
    "label outside the set",
    "unknown class",
    "one class kept",
)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_readable_error(section: Section, tmp_path: Path, case: str) -> None:
    section()
    cases = bad_files(tmp_path)
    assert set(cases) == set(CASES)
    fields, message = cases[case]
    with pytest.raises(DataError, match=message) as caught:
        tabular.read(section(**fields), seed=0)
    assert len(str(caught.value)) < 700
    assert len(str(caught.value).splitlines()) <= 4


def test_the_identity_follows_the_content_not_the_name(section: Section, tmp_path: Path) -> None:
    copy = tmp_path / "copy.parquet"
    first = tabular.identity(section())
    copy.write_bytes((tmp_path / "good_train.parquet").read_bytes())
    assert tabular.identity(section(train=copy)) == first
    write_parquet(copy, ROWS[1:])
    assert tabular.identity(section(train=copy))["train"] != first["train"]
