"""Decide which samples are worth learning from: every row is kept, or rejected with one reason that is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import Term
from jobs import generate, tasks
from jobs.data.filters import FILTERS, Gate, Rows
from jobs.step import Step, Work
from jobs.tasks.soft_labels import margins


def body(work: Work) -> None:
    """Write `curation.parquet`: per sample kept or not, the reason, and the scores a curriculum may use."""
    folder = work.parents["samples"].path()
    samples, labels = (pq.read_table(folder / f"{name}.parquet") for name in ("samples", "soft_labels"))
    embeddings = tasks.of(work.recipe).embeddings(samples)
    reasons, gates = judge(Rows(samples, embeddings), work.recipe.curate.filters)
    kept = np.array([reason is None for reason in reasons])
    if kept.mean() < work.recipe.curate.min_kept_share:
        counts = dict(Counter(reason for reason in reasons if reason))
        raise StepFailed(
            "curate",
            f"kept {kept.sum()} of {len(kept)} rows: {counts}",
            "loosen curate.filters or fit the teacher longer",
        )
    margin = margins(labels)
    difficulty = np.argsort(np.argsort(-margin)) / max(1, len(margin) - 1)
    verdicts = samples.select(["sample_id", "confidence", "entropy"])
    columns = {
        "kept": kept,
        "reason": pa.array(reasons, pa.string()),
        "margin": margin.astype(np.float32),
        "difficulty": difficulty.astype(np.float32),
    }
    for name, values in columns.items():
        verdicts = verdicts.append_column(name, pa.array(values))
    pq.write_table(schema.conform(verdicts, "curation"), work.draft.path / "curation.parquet")
    counts = dict(Counter(reason for reason in reasons if reason))
    work.draft.note(**{"in": len(kept), "kept": int(kept.sum()), "reasons": counts, "gates": gates})


def judge(rows: Rows, filters: Sequence[Term]) -> tuple[list[str | None], dict[str, float]]:
    """Per row the reason of the first filter that refused it (None: kept), and the value of every set-level gate.

    Raises StepFailed when the kept set does not pass a gate.
    """
    reasons: list[str | None] = [None] * len(rows.samples)
    alive, gates = np.arange(len(rows.samples)), {}
    for term in filters:
        entry = FILTERS[term.name]
        params = entry.params.parse(term.params)
        here = Rows(rows.samples.take(alive), rows.embeddings[alive])
        if isinstance(entry, Gate):
            gates[term.name] = entry.function(here, params)
            if gates[term.name] <= params.minimum:  # type: ignore[attr-defined]
                reason = f"{term.name} of the kept set is {gates[term.name]:.3f}, expected above {params.minimum}"  # type: ignore[attr-defined]
                raise StepFailed("curate", reason, "generate more varied requests or lower the gate")
            continue
        given = entry.function(here, params)
        for row, reason_or_none in zip(alive, given, strict=True):
            reasons[row] = reason_or_none
        alive = alive[[reason is None for reason in given]]
    return reasons, gates


STEP = Step("curate", "curated", 1, ("curate",), (generate.STEP,), body)
