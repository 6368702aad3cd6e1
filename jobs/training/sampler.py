"""Which rows each step trains on: a pure function of (seed, stage, step), so that a resumed run sees the same batches.

Phases of a stage go from easy to hard by changing the weight of each slice (curriculum learning, Bengio et al. 2009).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cluster.errors import RecipeError
from cluster.recipe import Phase, Stage
from jobs.training.stages import curriculum
from jobs.training.table import Columns

WINDOW = 32  # steps: enough rows to find alike ones, few enough to stay a random order of the set


def steps_of(stage: Stage, rows: int, batch: int) -> int:
    """Optimizer steps of a stage: epochs times the rows of the table in whole batches, at least `min_steps` and one."""
    return max(1, stage.min_steps, round(stage.epochs * rows / batch))


def order(
    stage: Stage,
    slices_R: np.ndarray,
    names: Sequence[str],
    batch: int,
    seed: int,
    known: Mapping[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Row numbers int64 [steps, batch] of a whole stage.

    `slices_R` int [rows] indexes `names`; `known` holds what else rows are chosen by (`curriculum.measures`). Within a
    phase every slice is walked in shuffled passes, so no row repeats before all of its slice were seen. Raises
    RecipeError when a phase names a slice that has no rows, or the stage a measure that is not known.
    """
    rng = np.random.default_rng(seed)
    pool = curriculum.eligible(stage, slices_R, names, known or {})
    steps = steps_of(stage, len(pool), batch)
    phases = stage.curriculum or (Phase(share=1.0, slices={}),)
    ends = np.round(np.cumsum([phase.share for phase in phases]) / sum(p.share for p in phases) * steps).astype(int)
    parts, start = [], 0
    for phase, end in zip(phases, ends, strict=True):
        easy = curriculum.easiest(phase, pool, known or {})
        parts.append(_phase(phase, easy, slices_R, names, ((int(end) - start) * batch, rng)))
        start = int(end)
    return np.concatenate(parts).reshape(steps, batch)


def pool_of(stage: Stage, columns: Columns, names: Sequence[str]) -> np.ndarray:
    """Row numbers int64 of a packed table that the stage may draw; its epochs are counted over them."""
    return curriculum.eligible(stage, columns["slice"], names, curriculum.measures(columns))


def plan_of(stage: Stage, columns: Columns, names: Sequence[str], batch: int, seed: int) -> np.ndarray:
    """`order` of a packed table; rows of like length share a batch where lengths are packed."""
    plan = order(stage, columns["slice"], names, batch, seed, curriculum.measures(columns))
    return bucketed(plan, columns["length"], seed) if "length" in columns else plan


def bucketed(plan: np.ndarray, length_R: np.ndarray, seed: int) -> np.ndarray:
    """The same rows [steps, batch] with rows of like length in one batch, so that little of a batch is padding.

    Only within windows of WINDOW steps, whose batches are shuffled again: a curriculum's phases keep their order.
    """
    rng, out = np.random.default_rng(seed), plan.copy()
    for start in range(0, len(plan), WINDOW):
        part = plan[start : start + WINDOW]
        alike = part.reshape(-1)[np.argsort(length_R[part.reshape(-1)], kind="stable")].reshape(part.shape)
        out[start : start + WINDOW] = alike[rng.permutation(len(part))]
    return out


def _phase(
    phase: Phase, pool: np.ndarray, slices_R: np.ndarray, names: Sequence[str], draw: tuple[int, np.random.Generator]
) -> np.ndarray:
    count, rng = draw
    if not phase.slices:
        return _passes(pool, count, rng)
    unknown = set(phase.slices) - set(names)
    if unknown:
        raise RecipeError("curriculum: unknown slice", got=", ".join(sorted(unknown)), expected=", ".join(names))
    weights = np.array([phase.slices.get(name, 0.0) for name in names], float)
    present = np.array([bool((slices_R[pool] == index).any()) for index in range(len(names))])
    if not (weights * present).any():
        raise RecipeError("curriculum: no rows in these slices", got=phase.slices, expected="slices with rows left")
    weights = weights * present / (weights * present).sum()
    picks = rng.choice(len(names), count, p=weights)
    out = np.empty(count, np.int64)
    for index in np.unique(picks):
        where = np.flatnonzero(picks == index)
        out[where] = _passes(pool[slices_R[pool] == index], len(where), rng)
    return out


def _passes(pool: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    passes = [rng.permutation(pool) for _ in range(-(-count // len(pool)))]
    return np.concatenate(passes)[:count] if passes else np.zeros(0, np.int64)
