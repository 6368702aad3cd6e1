"""How sure a student must be so that it agrees with its teacher as often as asked, and what that costs in deferrals.

A threshold that looks good on rows it was chosen on is too good. Here each candidate is tested: the chance of seeing so
few disagreements among the rows it keeps, if they were as frequent as just not allowed (an exact binomial tail). From
each of a few beginnings candidates are tested from the stricter to the laxer, until the first that fails; a beginning
has its share of `delta`, so the whole search errs with probability at most `delta` (multi-start fixed-sequence testing;
Angelopoulos et al., "Learn then Test", arXiv 2110.01052, section 3; the risk is that of the answers that are kept).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

STEPS = 50  # candidates: how many shares of the rows are kept (count)
STARTS = (0.1, 0.3, 0.5, 0.7, 0.9)  # shares of the rows that sequences begin at; few rows prove little, so not one only


@dataclass(frozen=True)
class Threshold:
    """Below `confidence_min` the teacher is asked; then, with probability 1 - `delta`, answers that are kept agree
    with the teacher's at least `target` of the time.

    `deferred` (share of requests) is its cost, and `agreement` what was seen, on `rows` rows.
    """

    confidence_min: float
    target: float
    delta: float
    deferred: float
    agreement: float
    rows: int


def calibrate(
    confidence: Sequence[float], agrees: Sequence[bool], target: float, delta: float = 0.05
) -> Threshold | None:
    """The laxest threshold that holds on held-out rows; None when none does (too few rows, or too weak a student).

    `confidence` is the student's (0..1) and `agrees` whether its answer was the teacher's, row by row.
    """
    rows = sorted(zip(confidence, agrees, strict=True), key=lambda row: -row[0])
    most = 0
    for start in STARTS:
        for step in range(round(start * STEPS), STEPS + 1):
            kept = _kept(rows, math.ceil(len(rows) * step / STEPS))
            wrong = sum(not agreed for _, agreed in rows[:kept])
            if binomial_tail(wrong, kept, 1 - target) > delta / len(STARTS):
                break
            most = max(most, kept)
    if not most:
        return None
    agreement = sum(agreed for _, agreed in rows[:most]) / most
    at = 0.0 if most == len(rows) else rows[most - 1][0]
    return Threshold(at, target, delta, 1 - most / len(rows), agreement, len(rows))


def _kept(rows: Sequence[tuple[float, bool]], count: int) -> int:
    """The first `count` rows and those as sure as the last: a threshold cannot part equal confidences."""
    while count < len(rows) and rows[count][0] == rows[count - 1][0]:
        count += 1
    return count


def binomial_tail(most: int, rows: int, share: float) -> float:
    """P(X <= most) of `rows` draws that each hit with probability `share`."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return float(most >= rows)
    logs = [
        math.lgamma(rows + 1) - math.lgamma(hits + 1) - math.lgamma(rows - hits + 1)
        + hits * math.log(share) + (rows - hits) * math.log1p(-share)
        for hits in range(most + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(log) for log in logs))
