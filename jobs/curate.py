"""Decide which samples are worth learning from: every row is kept, or rejected with one reason that is counted.

Beside `curation.parquet` it writes what a person looks at: `curation.html` and the audit sheet `audit.csv`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import RecipeError, StepFailed
from cluster.recipe import Recipe, Term
from jobs import generate, tasks
from jobs.after import audit, curation
from jobs.before import sheets
from jobs.data.filters import FILTERS, Filter, Gate, Rows
from jobs.data.filters import check as check_filters
from jobs.step import Step, Work
from jobs.tasks.soft_labels import margins
from serving.bundle.answer import softmax

EVALUATED = ("validation", "test")  # splits that no training row may stand in


@dataclass(frozen=True)
class Judged:
    """What was `asked`; per row the filter that refused it, its reason and score, and the row it repeats; and every
    gate's value."""

    asked: Sequence[str]
    filters: list[str | None]
    reasons: list[str | None]
    scores: np.ndarray
    twins: list[str | None]
    gates: dict[str, float]

    @property
    def kept(self) -> np.ndarray:
        """bool [R]."""
        return np.array([reason is None for reason in self.reasons], bool)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per reason, in the order of the filters."""
        found = Counter(zip(self.filters, self.reasons, strict=True))
        order = {name: place for place, name in enumerate(self.asked)}
        told = sorted((order[name], reason, rows) for (name, reason), rows in found.items() if name and reason)
        return {reason: rows for _, reason, rows in told}


def body(work: Work) -> None:
    """Write `curation.parquet`: per sample kept or not, why, and the scores a curriculum may use; then the pages."""
    folder, recipe = work.parents["samples"].path(), work.recipe
    samples, labels = (pq.read_table(folder / f"{name}.parquet") for name in ("samples", "soft_labels"))
    samples, labels, people = sheets.with_people(recipe, samples, labels, work.draft.path)
    rows = Rows(
        samples, tasks.of(recipe).embeddings(samples), probabilities(samples, labels), _evaluation(recipe), recipe.seed
    )
    judged = judge(rows, recipe.curate.filters)
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


def judge(rows: Rows, filters: Sequence[Term]) -> Judged:
    """Ask the filters in order; each sees the rows that the ones before it kept.

    Raises StepFailed when the kept set does not pass a gate.
    """
    count = rows.samples.num_rows
    out = Judged(
        [term.name for term in filters], [None] * count, [None] * count, np.full(count, np.nan), [None] * count, {}
    )
    alive = np.arange(count)
    for term in filters:
        entry = FILTERS[term.name]
        params = entry.params.parse(term.params)
        here = rows.take(alive)
        if isinstance(entry, Gate):
            out.gates[term.name] = entry.function(here, params)
            if out.gates[term.name] <= params.minimum:  # type: ignore[attr-defined]
                reason = f"{term.name} of the kept set is {out.gates[term.name]:.3f}, expected above {params.minimum}"  # type: ignore[attr-defined]
                raise StepFailed("curate", reason, "generate more varied requests or lower the gate")
            continue
        alive = alive[_refused(entry, here, params, alive, term.name, out)]
    return out


def _refused(entry: Filter, here: Rows, params: object, alive: np.ndarray, name: str, out: Judged) -> np.ndarray:
    """Note what one filter refuses of the rows `alive` int64 [A] in `out`; bool [A] of those that it keeps."""
    verdicts = entry.function(here, params)
    twins = verdicts.twins if verdicts.twins is not None else [None] * len(alive)
    for row, reason, score, twin in zip(alive.tolist(), verdicts.reasons, verdicts.scores, twins, strict=True):
        if reason is not None:
            out.filters[row], out.reasons[row], out.scores[row], out.twins[row] = name, reason, score, twin
    return np.array([reason is None for reason in verdicts.reasons], bool)


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


def margin_of(samples: pa.Table, labels: pa.Table) -> np.ndarray:
    """Per sample the margin of its soft label float64 [R]; NaN where it has none."""
    out = np.full(samples.num_rows, np.nan)
    if labels.num_rows:
        out[_places(samples, labels)] = margins(labels)
    return out


def difficulty_of(margin_R: np.ndarray) -> np.ndarray:
    """Rank of the margins from 0, easiest, to 1, float64 [R]; NaN where there is none."""
    out = np.full(len(margin_R), np.nan)
    known = np.flatnonzero(~np.isnan(margin_R))
    out[known] = np.argsort(np.argsort(-margin_R[known])) / max(1, len(known) - 1)
    return out


def probabilities(samples: pa.Table, labels: pa.Table) -> np.ndarray | None:
    """The teacher's class probabilities at T=1 float32 [R, C] in the samples' order, None where its answers are texts
    or a sample has none."""
    classes = labels["vocabulary"].unique().to_pylist()
    logits = labels["logits"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    single = labels["positions"].unique().to_pylist() == [1] and len(classes) == 1
    if not single or labels.num_rows != samples.num_rows or len(logits) != labels.num_rows * classes[0]:
        return None
    out = np.empty((samples.num_rows, classes[0]), np.float32)
    out[_places(samples, labels)] = softmax(logits.astype(np.float32).reshape(labels.num_rows, classes[0]))
    return out


def _places(samples: pa.Table, labels: pa.Table) -> np.ndarray:
    """int64 [labels]: the row of `samples` that each label is of."""
    wanted = samples["sample_id"].combine_chunks()
    places: np.ndarray = pc.index_in(labels["sample_id"].combine_chunks(), wanted).to_numpy(zero_copy_only=False)
    return places.astype(np.int64)


def check(recipe: Recipe) -> None:
    """Refuse filters that do not exist or do not fit, and targets of unknown columns. Raises RecipeError."""
    check_filters(recipe.curate.filters, recipe)
    for column, shares in recipe.curate.targets.items():
        if schema.COLUMNS["samples"].get(column, ("",))[0] not in ("string", "int32"):
            named = [name for name, (kind, *_) in schema.COLUMNS["samples"].items() if kind in ("string", "int32")]
            raise RecipeError("curate.targets: no such column", got=column, expected=", ".join(named))
        if not shares or min(shares.values()) < 0 or not sum(shares.values()):
            raise RecipeError(f"curate.targets.{column}", got=shares, expected="shares of 0 or more, one above 0")


def _evaluation(recipe: Recipe) -> Mapping[str, pa.Table]:
    """Requests of the splits that the student is measured on, where a filter asks for them."""
    if not any(term.name == "decontaminate" for term in recipe.curate.filters):
        return {}
    task = tasks.of(recipe)
    return {split: task.requests(split) for split in EVALUATED}


STEP = Step("curate", "curated", 2, ("curate",), (generate.STEP,), body, sheets.identity)
