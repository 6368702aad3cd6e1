"""Which rows of the packed table a stage may draw: its own slice of the data, and of that the easiest share.

Easy to hard by the teacher's margin, by length or by how many kinds of input a row has (curriculum learning, Bengio et
al. 2009; easy subsets that grow: arXiv 2506.05695).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import RecipeError
from cluster.recipe import Phase, Stage

MEASURES = ("difficulty", "confidence", "length", "modalities")


def measures(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is packed of a row that stages choose by; [R] each."""
    return {name: columns[name] for name in MEASURES if name in columns}


def eligible(stage: Stage, slices_R: np.ndarray, names: Sequence[str], known: Mapping[str, np.ndarray]) -> np.ndarray:
    """Row numbers int64 that the stage's `rows` let through, ascending.

    Raises RecipeError for a slice or a measure that the table does not have, and when no row is left.
    """
    kept_R = np.ones(len(slices_R), bool)
    if stage.rows.slices:
        if unknown := set(stage.rows.slices) - set(names):
            raise RecipeError("rows.slices: unknown slice", got=", ".join(sorted(unknown)), expected=", ".join(names))
        kept_R &= np.isin(slices_R, [index for index, name in enumerate(names) if name in stage.rows.slices])
    for name, (least, most) in stage.rows.bounds.items():
        values_R = _measure(known, name, f"stage {stage.name}: rows.{name}")
        kept_R &= (values_R >= least) & (values_R <= most)
    if not kept_R.any():
        got = stage.rows.model_dump(exclude_defaults=True)
        raise RecipeError(f"stage {stage.name}: no row is left", got=got, expected="rows within these bounds")
    return np.flatnonzero(kept_R)


def easiest(phase: Phase, pool: np.ndarray, known: Mapping[str, np.ndarray]) -> np.ndarray:
    """The easiest share of `pool` (row numbers) by the phase's measure; rows as hard as its last one are in too.

    Raises RecipeError when the measure is not packed.
    """
    if phase.easiest == 1.0:
        return pool
    values = _measure(known, phase.by, "curriculum: by")[pool]
    limit = np.sort(values)[max(1, round(phase.easiest * len(pool))) - 1]
    easy: np.ndarray = pool[values <= limit]
    return easy


def _measure(known: Mapping[str, np.ndarray], name: str, at: str) -> np.ndarray:
    if name not in known:
        raise RecipeError(f"{at}: rows have no {name}", got=name, expected=", ".join(known) or "a task that packs one")
    return known[name]
