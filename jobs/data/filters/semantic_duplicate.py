"""Drops rows that mean the same as an earlier one: cosine of the task's embeddings above a cut (SemDeDup, Abbas et al.
2023, with every pair compared instead of pairs of a cluster).

Shape legend: R rows, K rows kept so far, B rows of a block, E embedding.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from cluster.recipe.base import Section
from jobs.data.filters.near_duplicate import families
from jobs.data.filters.rows import Rows, Verdicts

BLOCK = 512


class Params(Section):
    """The cut."""

    maximum: float = Field(0.9, ge=-1, le=1, description="largest cosine to a kept row (DESIGN, decision 5: 0.9)")
    spare_views: bool = Field(True, description="whether views of one row may be alike")


def semantic_duplicate(rows: Rows, params: Params) -> Verdicts:
    """ "semantic_duplicate" for rows whose cosine to an earlier kept row (in `sample_id` order) is above the cut; that
    row is the twin, the score is the cosine to the nearest kept row (NaN for the first)."""
    ids = rows.samples["sample_id"].to_pylist()
    groups = families(rows.origins()) if params.spare_views else np.arange(len(ids))
    twin, cosine = nearest_kept(rows.embeddings, groups, params.maximum)
    twins = [None if place < 0 else ids[place] for place in twin.tolist()]
    return Verdicts([None if one is None else "semantic_duplicate" for one in twins], cosine, twins)


def nearest_kept(unit_RE: np.ndarray, groups_R: np.ndarray, cut: float) -> tuple[np.ndarray, np.ndarray]:
    """Per row the earlier kept row above the cut int64 [R] (-1: none, the row is kept) and the largest cosine to one
    float64 [R] (NaN: no kept row of another group before it). Rows of one group are never compared. R x K x E
    multiply-adds in blocks of 512 rows."""
    count = len(unit_RE)
    twin, cosine = np.full(count, -1, np.int64), np.full(count, -np.inf)
    kept = np.zeros(0, np.int64)
    for start in range(0, count, BLOCK):
        block = np.arange(start, min(start + BLOCK, count))
        if len(kept):
            near_BK = _cosines(unit_RE, groups_R, block, kept)
            best_B = near_BK.argmax(1)
            cosine[block], twin[block] = near_BK[np.arange(len(block)), best_B], kept[best_B]
        own_BB = _cosines(unit_RE, groups_R, block, block)
        _settle(own_BB, start, cosine[block[0] :], twin[block[0] :], cut)
        kept = np.concatenate([kept, block[cosine[block] <= cut]])
    twin[cosine <= cut] = -1
    return twin, np.where(np.isfinite(cosine), cosine, np.nan)


def _cosines(unit_RE: np.ndarray, groups_R: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Cosines [left, right]; minus infinity within a group."""
    out: np.ndarray = unit_RE[left] @ unit_RE[right].T
    out[groups_R[left][:, None] == groups_R[right][None]] = -np.inf
    return out


def _settle(own_BB: np.ndarray, start: int, cosine: np.ndarray, twin: np.ndarray, cut: float) -> None:
    """Compare the rows of a block, in order, with those kept before them in it; `cosine` and `twin` begin at the
    block's first row and are written."""
    alive = np.zeros(len(own_BB), bool)
    for row in range(len(own_BB)):
        if cosine[row] <= cut and alive[:row].any():
            near = np.where(alive[:row], own_BB[row, :row], -np.inf)
            best = int(near.argmax())
            if near[best] > cosine[row]:
                cosine[row], twin[row] = near[best], start + best
        alive[row] = cosine[row] <= cut
