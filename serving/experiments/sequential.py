"""Statistics that may be looked at after every request: each is a bet against its null hypothesis, and by Ville's
inequality the bet's capital exceeds 1/alpha at any time, ever, with probability at most alpha if the null is true.

Pure functions of counts; natural logarithms throughout. No peeking correction, no horizon, no normal approximation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

PRIOR = 0.18  # Beta(0.18, 0.18): the choice of Turner, Ly & Gruenwald 2024, section 4.2, for unknown rates
BETS = tuple(2.0**-power for power in range(1, 11))  # stakes of NotWorse, each below 1: no pair can ruin it
PRECISION = 40  # halvings behind each end of an interval: 1e-12


@dataclass(frozen=True)
class Counts:
    """Successes among the units of one arm (counts)."""

    successes: int = 0
    total: int = 0

    @property
    def rate(self) -> float:
        """Successes per unit; 0 where nothing was counted."""
        return self.successes / self.total if self.total else 0.0

    @property
    def guess(self) -> float:
        """Posterior mean under Beta(PRIOR, PRIOR): what to bet on, never 0 or 1."""
        return (self.successes + PRIOR) / (self.total + 2 * PRIOR)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.successes + other.successes, self.total + other.total)


def block_log_e(a: Counts, b: Counts, rate_a: float, rate_b: float) -> float:
    """log e-value of one block of n_a and n_b outcomes against "both rates are equal".

    E = prod p_rate_a(Y_a) prod p_rate_b(Y_b) / prod p_rate_0(Y), rate_0 = (n_a rate_a + n_b rate_b) / (n_a + n_b):
    equation 2.3 and theorem 1 of Turner, Ly & Gruenwald, "Generic E-variables for exact sequential k-sample tests that
    allow for optional stopping" (JSPI 2024, arXiv 2106.02693). Valid for rates guessed from earlier blocks. With
    rate_b < rate_a each factor of arm b falls, and each of arm a rises, in its true rate, so its mean is at most 1
    under the one-sided null rate_b >= rate_a, too.
    """
    if not a.total or not b.total:
        return 0.0
    rate_0 = (a.total * rate_a + b.total * rate_b) / (a.total + b.total)
    return _log_ratio(a, rate_a, rate_0) + _log_ratio(b, rate_b, rate_0)


def _log_ratio(counts: Counts, rate: float, rate_0: float) -> float:
    failures = counts.total - counts.successes
    return counts.successes * math.log(rate / rate_0) + failures * math.log((1 - rate) / (1 - rate_0))


@dataclass(frozen=True)
class TwoRates:
    """A running one-sided test of two arms: capital `log_e` against "b is not lower than a" (`side` lower), or against
    "b is not higher than a" (`side` higher). Immutable: `after` gives the next one."""

    side: Literal["lower", "higher"]
    a: Counts = Counts()
    b: Counts = Counts()
    log_e: float = 0.0
    log_e_max: float = 0.0

    def after(self, a: Counts, b: Counts) -> TwoRates:
        """The test after one more block; where a block ends must not depend on the outcomes in it.

        Nothing is bet while the guesses stand the other way round.
        """
        guess_a, guess_b = self.a.guess, self.b.guess
        bets = guess_b < guess_a if self.side == "lower" else guess_b > guess_a
        log_e = self.log_e + (block_log_e(a, b, guess_a, guess_b) if bets else 0.0)
        return replace(self, a=self.a + a, b=self.b + b, log_e=log_e, log_e_max=max(self.log_e_max, log_e))

    def rejects(self, alpha: float) -> bool:
        """Whether the capital has ever reached 1/alpha: then the null is refused at level alpha."""
        return self.log_e_max >= -math.log(alpha)


@dataclass(frozen=True)
class NotWorse:
    """A running bet against "b is worse than a by `margin` or more", on pairs of one outcome of each arm.

    With X = Y_b - Y_a in {-1, 0, 1}, E = mean over l in BETS of prod (1 + l (X + margin)): the mixture of capital
    processes of Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting" (JRSS B 2024), section
    4.2. The product depends on the numbers of pairs alone, so these are all that is kept.
    """

    margin: float
    worse: int = 0
    same: int = 0
    better: int = 0
    log_e_max: float = 0.0

    def after(self, pairs: Sequence[tuple[bool, bool]]) -> NotWorse:
        """The bet after more pairs (a, b), paired without a look at the outcomes."""
        worse = sum(a and not b for a, b in pairs)
        better = sum(b and not a for a, b in pairs)
        same = len(pairs) - worse - better
        made = replace(self, worse=self.worse + worse, same=self.same + same, better=self.better + better)
        return replace(made, log_e_max=max(self.log_e_max, made.log_e))

    @property
    def log_e(self) -> float:
        """Capital now (nats)."""
        logs = [
            self.worse * math.log1p(bet * (self.margin - 1))
            + self.same * math.log1p(bet * self.margin)
            + self.better * math.log1p(bet * (self.margin + 1))
            for bet in BETS
        ]
        top = max(logs)
        return top + math.log(sum(math.exp(one - top) for one in logs) / len(logs))

    def rejects(self, alpha: float) -> bool:
        """Whether the capital has ever been 1/alpha when it was looked at: then b is not worse by `margin`."""
        return self.log_e_max >= -math.log(alpha)


def sample_ratio_log_e(counts: Sequence[int], shares: Sequence[float], strength: float = 100.0) -> float:
    """log e-value against "units fall on arms as `shares` say" (a sample ratio mismatch).

    Dirichlet-multinomial against multinomial, prior Dirichlet(strength x shares): Lindon & Malek, "Anytime-valid
    inference for multinomial count data" (NeurIPS 2022), equation 6. It is the last of a running product, so it may be
    read after any unit. An arm with share 0 that has units is impossible: infinity.
    """
    if any(count and not share for count, share in zip(counts, shares, strict=True)):
        return math.inf
    pairs = [(count, share) for count, share in zip(counts, shares, strict=True) if share]
    total = sum(count for count, _ in pairs)
    log_e = math.lgamma(strength) - math.lgamma(strength + total)
    for count, share in pairs:
        prior = strength * share
        log_e += math.lgamma(prior + count) - math.lgamma(prior) - count * math.log(share)
    return log_e


def interval(total: float, count: int, alpha: float) -> tuple[float, float]:
    """(low, high) that hold the mean of values in 0..1 at all times at once with probability 1 - alpha.

    The confidence sequence { m : mixture(total, count) / likelihood_m(total, count) < 1/alpha } of a uniform mixture of
    Bernoulli bets (Robbins 1970; Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic
    confidence sequences", Annals of Statistics 2021: exact for 0/1, and valid for any value in 0..1, whose moment
    generating function a Bernoulli's of the same mean dominates). `total` is the sum of the values.
    """
    if not count:
        return 0.0, 1.0
    total = min(max(total, 0.0), float(count))
    mean = total / count
    room = -math.log(alpha) - _log_mixture(total, count)

    return _edge(0.0, mean, room, (total, count)), _edge(1.0, mean, room, (total, count))


def _log_mixture(total: float, count: int) -> float:
    return math.lgamma(total + 1) + math.lgamma(count - total + 1) - math.lgamma(count + 2)


def _log_likelihood(total: float, count: int, m: float) -> float:
    hits = total * math.log(m) if total else 0.0
    return hits + ((count - total) * math.log1p(-m) if count - total else 0.0)


def _edge(outside: float, inside: float, room: float, seen: tuple[float, int]) -> float:
    """Where -log likelihood first reaches `room` on the way from `inside` (the mean, where it is least) to 0 or 1."""
    for _ in range(PRECISION):
        middle = (outside + inside) / 2
        if -_log_likelihood(*seen, middle) >= room:
            outside = middle
        else:
            inside = middle
    return outside
