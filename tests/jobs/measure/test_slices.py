"""Slices: shares with intervals, bins of length and confidence, and columns of the user's own file."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from scipy.stats import binomtest

from cluster import schema
from cluster.errors import RecipeError
from cluster.recipe import DataSection
from jobs.measure import shares, slices


@pytest.mark.parametrize(("hits", "rows"), [(0, 7), (7, 7), (45, 60), (1, 1000)])
def test_the_interval_of_a_share_is_wilsons(hits: int, rows: int) -> None:
    expected = binomtest(hits, rows).proportion_ci(method="wilson")
    assert shares.wilson(hits, rows) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_a_table_has_a_line_per_value_with_every_models_share() -> None:
    right = {"teacher": np.array([1, 1, 1, 0], bool), "student_int8": np.array([1, 0, 1, 1], bool)}
    table = slices.table(["x", "x", "y", "y"], right, "student_int8")
    assert [one["name"] for one in table] == ["x", "y"] and [one["rows"] for one in table] == [2, 2]
    assert table[0]["teacher"] == 1.0 and table[0]["student_int8"] == 0.5 and table[1]["teacher"] == 0.5
    assert (table[0]["low"], table[0]["high"]) == shares.wilson(1, 2)


def test_lengths_fall_into_quarters_and_equal_lengths_into_one_bin() -> None:
    texts = ["a " * count for count in range(1, 9)]
    assert list(dict.fromkeys(slices.by_length(texts))) == [
        "1 to 2 words",
        "3 to 4 words",
        "5 to 6 words",
        "7 to 8 words",
    ]
    assert set(slices.by_length(["one two"] * 5)) == {"2 words"}


def test_confidence_falls_into_bins_that_are_narrow_where_models_live() -> None:
    found = slices.by_confidence(np.array([0.2, 0.5, 0.93, 0.99, 1.0]))
    assert found == ["0 to 0.5", "0.5 to 0.7", "0.9 to 0.95", "0.99 to 1", "0.99 to 1"]


@pytest.fixture
def rows(tmp_path: Path) -> tuple[DataSection, pa.Table]:
    path = tmp_path / "test.csv"
    pyarrow.csv.write_csv(
        pa.table({"text": ["a", "b", "c"], "label": [0, 1, 0], "channel": ["web", "app", "web"]}), path
    )
    base: dict[str, Any] = {"split": "test", "slice": "all", "view": 0, "draw": 0, "temperature": 0.0, "seed": 0}
    asked = [base | {"sample_id": name, "seed_row": number, "prompt": name} for number, name in ((2, "z"), (1, "y"))]
    table = schema.conform(pa.Table.from_pylist(asked), "requests")
    return DataSection(source="table", train="train.csv", test=str(path)), table


def test_any_column_of_the_test_file_makes_slices_joined_by_row_number(rows: tuple[DataSection, pa.Table]) -> None:
    assert slices.by_column(*rows, "channel") == {"z": "web", "y": "app"}
    assert slices.by_column(*rows, "slice") == {"z": "all", "y": "all"}


def test_a_column_that_nobody_has_is_refused_with_those_there_are(rows: tuple[DataSection, pa.Table]) -> None:
    with pytest.raises(RecipeError, match=r"(?s)slice_columns.*chanel.*test\.csv"):
        slices.by_column(*rows, "chanel")
