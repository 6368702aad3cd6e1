"""Chooses what to ask next: the candidates that would add most to what curation has kept so far.

The first round is a random choice. A later one gives every candidate the mean of three ranks in 0..1: `scarce`, how far
the class of its seed row is below an even share of the kept rows; `new`, the share of its word pairs that no kept
prompt has; `hard`, how unsure the teacher was on rows of the same seed row, or of the same class where there are none.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.data.filters import words

UNSURE_SHARE = 0.1  # least confident answers that a cheap judgement takes for refused


def next_requests(pool: pa.Table, samples: pa.Table, reasons: Sequence[str | None], budget: int, seed: int) -> pa.Table:
    """At most `budget` rows of `pool` (table "requests") that were not asked yet, ordered by `sample_id`.

    `samples` are the rows asked so far (requests with `response`, `confidence`, `status`), `reasons` why each would be
    refused (None: kept). Deterministic in its arguments: `seed` draws the first round and breaks ties.
    """
    left = pool.filter(pc.invert(pc.is_in(pool["sample_id"], samples["sample_id"].combine_chunks())))
    noise = np.random.default_rng([seed, len(samples)]).random(len(left))
    if not len(samples) or not len(left):
        order = np.argsort(noise)
    else:
        parts = [_rank(values) for values in _needs(left, samples, reasons)]
        order = np.lexsort((noise, -np.round(np.mean(parts, axis=0), 9)))
    return left.take(np.sort(order[:budget])).sort_by("sample_id")


def cheap_reasons(samples: pa.Table) -> list[str | None]:
    """Why curation would refuse a row, as far as that costs nothing: no answer, not the true answer, a prompt that was
    there before, or among the least confident tenth."""
    confidence = [value for value in samples["confidence"].to_pylist() if value is not None]
    cut = float(np.quantile(confidence, UNSURE_SHARE)) if confidence else 0.0
    seen: set[bytes] = set()
    reasons: list[str | None] = []
    columns = ("status", "label_name", "response", "draw", "confidence")
    for row, key in zip(samples.select(columns).to_pylist(), words.input_keys(samples), strict=True):
        reason = None
        if row["status"] != "ok":
            reason = "no_answer"
        elif row["label_name"] is not None and row["label_name"] != row["response"]:
            reason = "wrong_answer"
        elif row["draw"] == 0 and key in seen:
            reason = "duplicate"
        elif row["confidence"] is not None and row["confidence"] < cut:
            reason = "low_confidence"
        seen.add(key)
        reasons.append(reason)
    return reasons


def _needs(left: pa.Table, samples: pa.Table, reasons: Sequence[str | None]) -> tuple[np.ndarray, ...]:
    """`scarce`, `new` and `hard` of every candidate, each [candidates]; larger is more wanted."""
    kept = [reason is None for reason in reasons]
    class_of = _classes(left, samples)
    owners = [class_of[row] for row in samples["seed_row"].to_pylist()]
    counts = Counter(owner for owner, keep in zip(owners, kept, strict=True) if keep)
    doubts, by_class = defaultdict(list), defaultdict(list)
    for row, owner, sure in zip(
        samples["seed_row"].to_pylist(), owners, samples["confidence"].to_pylist(), strict=True
    ):
        doubt = 1.0 if sure is None else 1.0 - sure
        doubts[row].append(doubt)
        by_class[owner].append(doubt)
    middle = float(np.mean([doubt for own in doubts.values() for doubt in own]))
    known = {pair for prompt, keep in zip(samples["prompt"].to_pylist(), kept, strict=True) if keep
             for pair in _pairs(prompt)}  # fmt: skip
    scarce, new, hard = [], [], []
    for row, prompt in zip(left["seed_row"].to_pylist(), left["prompt"].to_pylist(), strict=True):
        owner = class_of[row]
        scarce.append(-float(counts[owner]))
        pairs = set(_pairs(prompt))
        new.append(len(pairs - known) / len(pairs) if pairs else 0.0)
        own = doubts[row] or by_class[owner] or [middle]  # an empty list is added for what was never asked
        hard.append(float(np.mean(own)))
    return np.array(scarce), np.array(new), np.array(hard)


def _classes(left: pa.Table, samples: pa.Table) -> dict[int, str]:
    """Seed row -> its true answer, else the teacher's on it, else its slice."""
    out: dict[int, str] = {}
    for table, column in ((left, "slice"), (samples, "slice"), (samples, "response"), (left, "label_name"),
                          (samples, "label_name")):  # fmt: skip
        for row, name in zip(table["seed_row"].to_pylist(), table[column].to_pylist(), strict=True):
            out[row] = out[row] if name is None else name
    return out


def _pairs(prompt: str | None) -> Iterable[tuple[str, str]]:
    return itertools.pairwise((prompt or "").lower().split())


def _rank(values: np.ndarray) -> np.ndarray:
    """Ranks scaled to 0..1, equal values alike, so that no need outweighs the others by its unit."""
    _, place = np.unique(values, return_inverse=True)
    scaled: np.ndarray = place / max(1, place.max())
    return scaled
