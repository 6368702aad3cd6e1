"""Where a model is good and where it is not: shares of right answers by slice, length, confidence and any column.

Shape legend: R rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.errors import RecipeError
from cluster.recipe import DataSection
from jobs.data import readers, tabular
from jobs.measure.shares import wilson

Array = np.ndarray[Any, Any]
VALUES_MAX = 30  # values of a column with a line of their own
OTHER = "(other)"
CONFIDENCE = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99)  # lower edges of the bins


def table(names_R: Sequence[str], right: Mapping[str, Array], judged: str) -> list[dict[str, Any]]:
    """Per value, in order of first appearance: `name`, `rows`, every model's share right, and `low` and `high`, the
    95 % interval of model `judged`."""
    values, found = np.array(names_R), []
    for name in dict.fromkeys(names_R):
        own = values == name
        low, high = wilson(int(right[judged][own].sum()), int(own.sum()))
        shares = {model: float(right_R[own].mean()) for model, right_R in right.items()}
        found.append({"name": str(name), "rows": int(own.sum()), **shares, "low": low, "high": high})
    return found


def by_length(texts: Sequence[str]) -> list[str]:
    """Each text's bin of length in words: quarters of the texts at hand, fewer where lengths repeat."""
    words_R = np.array([len(text.split()) for text in texts])
    edges = np.unique(np.quantile(words_R, [0.25, 0.5, 0.75], method="lower"))
    place_R = np.searchsorted(edges, words_R)
    spans = {place: (words_R[place_R == place].min(), words_R[place_R == place].max()) for place in np.unique(place_R)}
    return [f"{low} to {high} words" if low < high else f"{low} words" for low, high in (spans[p] for p in place_R)]


def by_confidence(confidence_R: Array) -> list[str]:
    """Each row's bin of confidence."""
    edges = [*CONFIDENCE, 1.0]
    place_R = np.searchsorted(CONFIDENCE, confidence_R, side="right") - 1
    return [f"{edges[place]:g} to {edges[place + 1]:g}" for place in np.clip(place_R, 0, len(CONFIDENCE) - 1)]


def by_column(section: DataSection, requests: pa.Table, column: str) -> dict[str, str]:
    """sample_id -> the row's value of a column: of the request table itself (text), or of the test file.

    Values beyond the most frequent are OTHER, a missing one is "(none)". Raises RecipeError for a column nobody has.
    """
    ids = requests["sample_id"].to_pylist()
    texts = [field.name for field in requests.schema if pa.types.is_string(field.type)]
    if column in texts:
        values = requests[column].to_pylist()
    else:
        by_number = in_file(section, column, texts)
        values = [by_number[number] for number in requests["seed_row"].to_pylist()]
    named = ["(none)" if value is None else value for value in values]
    kept = {name for name, _ in Counter(named).most_common(VALUES_MAX)}
    return {key: name if name in kept else OTHER for key, name in zip(ids, named, strict=True)}


def in_file(section: DataSection, column: str, also: Sequence[str] = ()) -> dict[int, str | None]:
    """Row number -> value of a column of the recipe's test file. Raises RecipeError where it has none; `also` names the
    columns that would do as well."""
    raw = readers.read(tabular.files(section)["test"], {}, [column]) if section.test is not None else None
    if raw is None or column not in raw.columns:
        where = "the requests" if raw is None else f"{section.test} or the requests"
        expected = f"a column of {where} ({', '.join(also)})"
        raise RecipeError("evaluate.slice_columns: no such column", got=column, expected=expected)
    return dict(zip(raw.numbers, map(text_of, raw.columns[column]), strict=True))


def text_of(value: Any) -> str | None:
    """A cell as text; None for a null."""
    if value is None:
        return None
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
