"""Decide which samples are worth learning from: every row is kept, or rejected with one reason that is counted.

Beside `curation.parquet` it writes what a person looks at: `curation.html` and the audit sheet `audit.csv`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Recipe
from jobs import generate
from jobs.after import audit, curation
from jobs.before import sheets
from jobs.data import streaming
from jobs.data.filters import check as check_filters
from jobs.data.judging import Judged, difficulty_of, judge, margin_of, rows_of
from jobs.step import Step, Work


def body(work: Work) -> None:
    """Write `curation.parquet`: per sample kept or not, why, and the scores a curriculum may use; then the pages."""
    folder, recipe = work.parents["samples"].path(), work.recipe
    samples, labels = (pq.read_table(folder / f"{name}.parquet") for name in ("samples", "soft_labels"))
    samples, labels, people = sheets.with_people(recipe, samples, labels, work.draft.path)
    rows = replace(rows_of(recipe, samples, labels), spent=work.draft.scratch)
    judged = judge(rows, recipe.curate.filters, streaming.judge if len(samples) >= recipe.curate.stream_rows else None)
    kept, counts = judged.kept, judged.counts
    if not len(kept) or kept.mean() < recipe.curate.min_kept_share:
        raise StepFailed(
            "curate",
            f"kept {kept.sum()} of {len(kept)} rows: {counts}",
            "loosen curate.filters or fit the teacher longer",
        )
    verdicts = table(samples, judged, margin_of(samples, labels))
    pq.write_table(verdicts, work.draft.path / "curation.parquet")
    audit.write(work.draft.path, samples.filter(pa.array(kept)), recipe.curate.audit_rows, recipe.seed)
    facts = {"in": len(kept), "kept": int(kept.sum()), "reasons": counts, "gates": judged.gates}
    facts |= curation.measure(rows, verdicts, recipe.curate.targets)
    page = curation.render(recipe.name, facts, curation.collect(samples, verdicts))
    (work.draft.path / "curation.html").write_text(page)
    work.draft.note(**facts, **people)


def table(samples: pa.Table, judged: Judged, margin_R: np.ndarray) -> pa.Table:
    """The rows of `curation.parquet` (`cluster.schema` "curation") from verdicts and margins float [R] (NaN: null)."""
    columns = {
        "kept": pa.array(judged.kept),
        "reason": pa.array(judged.reasons, pa.string()),
        "filter": pa.array(judged.filters, pa.string()),
        "score": _nullable(judged.scores),
        "twin": pa.array(judged.twins, pa.string()),
        "margin": _nullable(margin_R),
        "difficulty": _nullable(difficulty_of(margin_R)),
    }
    verdicts = samples.select(["sample_id", "confidence", "entropy"])
    for name, values in columns.items():
        verdicts = verdicts.append_column(name, values)
    return schema.conform(verdicts, "curation")


def _nullable(values_R: np.ndarray) -> pa.Array:
    return pa.array(values_R.astype(np.float32), mask=np.isnan(values_R))


def check(recipe: Recipe) -> None:
    """Refuse filters that do not exist or do not fit, and targets of unknown columns. Raises RecipeError."""
    check_filters(recipe.curate.filters, recipe)
    for column, shares in recipe.curate.targets.items():
        if schema.COLUMNS["samples"].get(column, ("",))[0] not in ("string", "int32"):
            named = [name for name, (kind, *_) in schema.COLUMNS["samples"].items() if kind in ("string", "int32")]
            raise RecipeError("curate.targets: no such column", got=column, expected=", ".join(named))
        if not shares or min(shares.values()) < 0 or not sum(shares.values()):
            raise RecipeError(f"curate.targets.{column}", got=shares, expected="shares of 0 or more, one above 0")


STEP = Step("curate", "curated", 2, ("curate",), (generate.STEP,), body, sheets.identity)
