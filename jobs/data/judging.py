"""What the filters say of samples: per row kept or the reason, and the numbers that a curriculum may use.

Shape legend: R rows, A rows that earlier filters kept, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cluster import schema
from cluster.errors import StepFailed
from cluster.recipe import Recipe, Term
from jobs import tasks
from jobs.data.answers import labels_of
from jobs.data.filters import FILTERS, Filter, Gate, Rows
from jobs.data.requests import rounds
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


Pass = Callable[[Rows, Sequence[Term]], Judged]  # what filters that judge every row by itself say of rows


def rows_of(recipe: Recipe, samples: pa.Table, labels: pa.Table) -> Rows:
    """What the filters read of samples and their soft labels (rows without one are allowed)."""
    task = tasks.of(recipe)
    evaluated = EVALUATED if any(term.name == "decontaminate" for term in recipe.curate.filters) else ()
    asked = {split: task.requests(split) for split in evaluated}
    return Rows(samples, task.embeddings(samples), probabilities(samples, labels), asked, recipe.seed)


def refusals(recipe: Recipe, answers: pa.Table) -> list[str | None]:
    """Per answer of a finished round why it does not count, in order: what the recipe's filters say, else what
    `rounds.cheap_reasons` does. Gates wait for the whole set, and a filter that asks a paid model for the curation.
    """
    reasons = rounds.cheap_reasons(answers)
    good = np.flatnonzero(pc.equal(answers["status"], "ok").to_numpy())
    samples = schema.conform(answers.take(good).append_column("teacher", pa.array([""] * len(good))), "samples")
    terms = [term for term in recipe.curate.filters if _free(FILTERS[term.name])]
    judged = judge(rows_of(recipe, samples, labels_of(answers.take(good))), terms)
    for place, reason in zip(good.tolist(), judged.reasons, strict=True):
        reasons[place] = reason or reasons[place]
    return reasons


def _free(entry: Filter | Gate) -> bool:
    return isinstance(entry, Filter) and not entry.paid


def judge(rows: Rows, filters: Sequence[Term], passed: Pass | None = None) -> Judged:
    """Ask the filters in order; each sees the rows that the ones before it kept.

    Filters in a line that judge every row by itself go through `passed` together, where it is given: one pass over the
    rows (`jobs.data.streaming`). Raises StepFailed when the kept set does not pass a gate.
    """
    count = rows.samples.num_rows
    out = Judged(
        [term.name for term in filters], [None] * count, [None] * count, np.full(count, np.nan), [None] * count, {}
    )
    alive = np.arange(count)
    for together, line in groupby(filters, lambda term: passed is not None and _alone(term)):
        if together and passed is not None:
            alive = alive[_noted(passed(rows.take(alive), list(line)), alive, out)]
        else:
            alive = _in_turn(rows, list(line), alive, out)
    return out


def _alone(term: Term) -> bool:
    entry = FILTERS[term.name]
    return isinstance(entry, Filter) and entry.alone(entry.params.parse(term.params))


def _noted(judged: Judged, alive: np.ndarray, out: Judged) -> np.ndarray:
    """Copy what was judged of the rows `alive` int64 [A] into `out`; bool [A] of those kept."""
    for place, row in enumerate(alive.tolist()):
        out.filters[row], out.reasons[row] = judged.filters[place], judged.reasons[place]
        out.scores[row], out.twins[row] = judged.scores[place], judged.twins[place]
    return judged.kept


def _in_turn(rows: Rows, filters: Sequence[Term], alive: np.ndarray, out: Judged) -> np.ndarray:
    """Ask filters one after the other of the rows `alive` int64; those still kept."""
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
    return alive


def _refused(entry: Filter, here: Rows, params: object, alive: np.ndarray, name: str, out: Judged) -> np.ndarray:
    """Note what one filter refuses of the rows `alive` int64 [A] in `out`; bool [A] of those that it keeps."""
    verdicts = entry.function(here, params)
    twins = verdicts.twins if verdicts.twins is not None else [None] * len(alive)
    for row, reason, score, twin in zip(alive.tolist(), verdicts.reasons, verdicts.scores, twins, strict=True):
        if reason is not None:
            out.filters[row], out.reasons[row], out.scores[row], out.twins[row] = name, reason, score, twin
    return np.array([reason is None for reason in verdicts.reasons], bool)


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
