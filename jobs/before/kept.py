"""What pilots keep of the teacher, in the scale that a learning curve is a law in, and back.

Answers that are right or wrong: the share right over the teacher's. Texts: the true text's likelihood, exp(mean
log-probability), over the teacher's; there the curve is of the logarithm, as the law is one of the loss (Hestness et
al. 2017, arXiv 1712.00409), and 1 + log r is r where a student is near its teacher.

Shape legend: D draws, N sizes, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import fit
from jobs.before import curve, likely, teacher_exam, worth
from jobs.before.curve import Prediction
from jobs.measure.next_tokens import Likely


@dataclass(frozen=True)
class Kept:
    """The teacher's primary metric with the half of its 95 % interval (`about`), retention per pilot, the curve's
    points as they would be on other rows, float64 [D, N], and what judging the run on other rows adds (sd)."""

    rows: int
    teacher: float
    about: float
    retention_N: Sequence[float]
    values_DN: np.ndarray
    noise: float
    back: Callable[[float], float]

    def predict(self, sizes_N: Sequence[int], target: int, seed: int) -> Prediction:
        """Retention of a student of `target` rows."""
        found = curve.predict(sizes_N, self.values_DN, target, self.noise, seed)
        named = {name: self.back(getattr(found, name)) for name in ("value", "low", "high")}
        return replace(found, **named)


def of(recipe: Recipe, store: Store, found: Sequence[Mapping[str, Any]], draws: int, seed: int) -> Kept:
    """What the pilots (`pilot.json` of each, by rising size) keep on validation rows; only where answers are right or
    wrong does the teacher answer these too (`jobs.before.teacher_exam`)."""
    if recipe.task == "text_generation":
        teacher = likely.of_teacher(recipe, store.get(fit.STEP.kind, fit.STEP.id(recipe)))
        return of_texts([likely.read(one) for one in found], teacher, draws, seed)
    right_NR = np.stack([worth.right_of(one) for one in found])
    exam = teacher_exam.STEP.run(recipe, store)
    return of_classes(right_NR, teacher_exam.right(recipe, exam), draws, seed)


def of_classes(right_NR: np.ndarray, teacher_R: np.ndarray, draws: int, seed: int) -> Kept:
    """Rows right, bool, of the pilots and of the teacher."""
    rows, teacher, missed = len(teacher_R), float(teacher_R.mean()), 1 - float(right_NR[-1].mean())
    # The run is judged on other rows than these: as many test rows as validation rows is what can be said here.
    noise = float(np.sqrt(2 * missed * (1 - missed) / rows) / max(teacher, 1e-9))
    return Kept(
        rows, teacher, 1.96 * float(np.sqrt(teacher * (1 - teacher) / rows)),
        (right_NR.mean(1) / max(teacher, 1e-9)).tolist(), curve.ratios(right_NR, teacher_R, draws, seed), noise,
        lambda value: max(value, 0.0),
    )  # fmt: skip


def of_texts(pilots: Sequence[Likely], teacher: Likely, draws: int, seed: int) -> Kept:
    """The same for log-probabilities of true texts; the tokens are the same for all."""
    rng, rows = np.random.default_rng(seed), len(teacher.nll_R)
    counts_DR = rng.multinomial(rows, np.full(rows, 1 / rows), size=draws)
    tokens_D = counts_DR @ teacher.tokens_R
    log_teacher_D = -(counts_DR @ teacher.nll_R) / tokens_D
    log_DN = np.stack([-(counts_DR @ one.nll_R) / tokens_D for one in pilots], axis=1)
    values_DN = 1 + log_DN - log_teacher_D[:, None]
    spread = 1.96 * float(np.exp(log_teacher_D).std())
    # As many test rows as validation rows: what other rows move a measured ratio by, they move the run's by as well.
    noise = float(values_DN[:, -1].std())
    kept = [one.likelihood / teacher.likelihood for one in pilots]
    return Kept(rows, teacher.likelihood, spread, kept, values_DN, noise, lambda value: float(np.exp(value - 1)))
