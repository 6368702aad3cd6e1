"""The schemas of the hand-overs: what is refused by the name of its column, and what survives Parquet."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.errors import ArtifactMismatch
from cluster.schema import COLUMNS, SCHEMA_VERSION, VERSION_KEY, check, conform, schema

VALUES: dict[str, Any] = {
    "string": "text",
    "int32": 3,
    "int64": 2**40,
    "float32": 0.5,
    "bool": True,
    "list<binary>": [b"png", b"png"],
    "binary": b"wav",
    "list<float16>": [np.float16(-0.5), np.float16(0.0)],
    "list<int32>": [5, 6, 7],
    "list<int8>": [-128, 127],
    "list<float32>": [0.25],
    "list<string>": ["a", "b"],
}


def table(name: str) -> Any:
    columns = {column: [VALUES[text]] for column, (text, *_) in COLUMNS[name].items()}
    return pa.table({column: pa.array(value, schema(name).field(column).type) for column, value in columns.items()})


names = pytest.mark.parametrize("name", sorted(COLUMNS))


@names
def test_every_column_says_its_unit_and_meaning_and_the_table_its_version(name: str) -> None:
    for field in schema(name):
        assert set(field.metadata) == {b"unit", b"meaning"}
        assert field.metadata[b"meaning"]
    assert schema(name).metadata[VERSION_KEY.encode()] == str(SCHEMA_VERSION).encode()


@names
def test_a_conformed_table_passes_and_survives_parquet_with_its_units(name: str, tmp_path: Path) -> None:
    whole = conform(table(name), name)
    check(whole, name)
    pq.write_table(whole, tmp_path / "t.parquet")
    back = pq.read_table(tmp_path / "t.parquet")
    check(back, name)
    assert back.equals(whole)
    assert all(b"unit" in field.metadata for field in back.schema)


@names
def test_each_missing_column_of_another_type_or_with_nulls_is_refused_by_name(name: str) -> None:
    whole = table(name)
    for column, (text, nullable, *_) in COLUMNS[name].items():
        with pytest.raises(ArtifactMismatch, match=f"column {column} "):
            check(whole.drop_columns([column]), name)
        index = whole.column_names.index(column)
        other = pa.array(["x"], pa.large_string()) if text != "large_string" else pa.array([1])
        with pytest.raises(ArtifactMismatch, match=f"column {column} "):
            check(whole.set_column(index, column, other), name)
        if not nullable:
            with pytest.raises(ArtifactMismatch, match="1 nulls"):
                check(whole.set_column(index, column, pa.nulls(1, schema(name).field(column).type)), name)


def test_a_table_of_another_version_is_refused() -> None:
    other = table("curation").replace_schema_metadata({VERSION_KEY: "99"})
    with pytest.raises(ArtifactMismatch, match="schema_version"):
        check(other, "curation")


def test_columns_of_a_steps_own_are_allowed_by_check_and_dropped_by_conform() -> None:
    more = table("curation").append_column("mine", pa.array([1]))
    check(more, "curation")
    assert "mine" not in conform(more, "curation").column_names


def test_conform_orders_casts_safely_and_fills_absent_nullable_columns() -> None:
    loose = pa.table({"kept": [True], "sample_id": pa.array(["a"], pa.large_string()), "margin": [0.5]})
    made = conform(loose, "curation")
    assert made.column_names == list(COLUMNS["curation"])
    assert {name: value for name, value in made.to_pylist()[0].items() if value is not None} == {
        "sample_id": "a",
        "kept": True,
        "margin": 0.5,
    }


def test_conform_refuses_a_cast_that_would_lose_something_and_a_hole() -> None:
    with pytest.raises(ArtifactMismatch, match="column positions"):
        conform(pa.table({"sample_id": ["a"], "positions": [2**40]}), "soft_labels")
    with pytest.raises(ArtifactMismatch, match="column kept"):
        conform(pa.table({"sample_id": ["a"]}), "curation")
