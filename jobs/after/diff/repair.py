"""A `generate` section that asks the teacher for more rows of a slice, for a recipe of people or the one of `watch`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from jobs.after.diff.sides import Asked, Said
from jobs.after.diff.slices import Slice

VIEWS = 4  # of every row of the slice
NAMES_MAX = 5  # answers that stand for a slice which no request shows
# Medium -> the mildest noise that makes another request of it.
KINDS = {"image": "gaussian_noise", "audio": "audio_noise", "text": "words"}


def section(recipe: Recipe, slice_: Slice, rows: Asked, one: Said, other: Said) -> dict[str, Any] | None:
    """`generate` with what must change of it: the recipe's own augmentation and behind it further views of the slice,
    labelled by the teacher. None where the slice cannot be told before a request is answered."""
    where = dict(slice_.facet.where) or _by_answers(slice_, rows, one, other)
    if not where:
        return None
    term = {"name": KINDS[_medium(recipe, rows)], "params": {"views": VIEWS, "where": where}}
    changed: dict[str, Any] = {"augment": [*(_plain(own.model_dump()) for own in recipe.generate.augment), term]}
    if recipe.generate.samples:  # they count the further views too
        share = slice_.facet.rows_R.mean()
        changed["samples"] = recipe.generate.samples + int(np.ceil(VIEWS * share * recipe.generate.samples))
    return {"generate": changed}


def written(section_: Mapping[str, Any]) -> str:
    """The section as YAML."""
    import yaml

    return str(yaml.safe_dump(dict(section_), sort_keys=False, allow_unicode=True, width=100))


def _by_answers(slice_: Slice, rows: Asked, one: Said, other: Said) -> dict[str, Any]:
    """The true classes (where unknown, the first's answers) of its disagreements: what such rows are mostly about."""
    differ = [row for row in np.flatnonzero(slice_.facet.rows_R).tolist() if one.texts[row] != other.texts[row]]
    names = Counter(rows.truth[row] if rows.truth[row] is not None else one.texts[row] for row in differ)
    return {"label_name": [name for name, _ in names.most_common(NAMES_MAX)]} if names else {}


def _medium(recipe: Recipe, rows: Asked) -> str:
    if recipe.task in ("text_classification", "retrieval"):
        return "text"
    held = {name: any(rows.table[name].to_pylist()) for name in ("images", "audio") if name in rows.table.column_names}
    return "image" if held.get("images") else "audio" if held.get("audio") else "text"


def _plain(term: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in term.items() if name != "weight" or value != 1.0}
