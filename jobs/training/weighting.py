"""What counts how much: loss terms on one scale, and positions (tokens or rows) within a term.

Raw terms differ by orders of magnitude (DESIGN, decision 2), so each is brought to the size of the first and 0.7 : 0.3
are the shares that train; the realised shares are logged at every step. The sum keeps the first term's own scale:
divided by it instead, gradients stay as long as the clip allows to the very end, and the digits student ended at .84 on
validation instead of .95.

Shape legend: Q scored positions, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import full, rows_at_once

if TYPE_CHECKING:
    from jobs.training.losses import Signals

DECAY = 0.98  # about fifty steps of memory: slow enough to average batches, fast enough to follow training


class Balance:
    """Running means of the terms, which the checkpoint keeps. Only their ratios count, so no bias is corrected.

    Terms that are `absolute` (regularisers, zero at the start) keep their own size: their weight is a factor.
    """

    def __init__(
        self,
        weights: Sequence[float],
        means: Sequence[float] | None = None,
        absolute: Sequence[bool] | None = None,
    ) -> None:
        self.weigh(weights)
        self.absolute = torch.tensor(absolute or [False] * len(weights))
        self.anchor = int(self.absolute.logical_not().to(torch.int8).argmax())
        self.means = torch.tensor(means or [0.0] * len(weights), dtype=torch.float64)
        self.shares = [1.0 / len(weights)] * len(weights)
        self._sum, self._steps = torch.zeros(len(weights), dtype=torch.float64), 0

    def weigh(self, weights: Sequence[float]) -> None:
        """Set the weights of the coming step."""
        self.weights = torch.tensor(weights, dtype=torch.float64)

    def __call__(self, terms: Sequence[Tensor], values: Tensor) -> Tensor:
        """Weighted sum of the terms, each times (running mean of the first) / (its own) unless absolute.

        `values` are the terms averaged over ranks, detached.
        """
        return self.total(terms, self.scale(values))

    def scale(self, values: Tensor) -> list[float]:
        """The factor of each term at this step; counts the step's `values` (see `__call__`)."""
        now = values.to("cpu", torch.float64)
        self.means = DECAY * self.means + (1 - DECAY) * now
        scale = self.weights * self.means[self.anchor] / self.means.clamp_min(1e-12)
        scale = torch.where(self.absolute, self.weights, scale)
        share = scale * now / (scale * now).sum().clamp_min(1e-12)
        self.shares, self._sum, self._steps = share.tolist(), self._sum + share, self._steps + 1
        return [float(factor) for factor in scale]

    @staticmethod
    def total(terms: Sequence[Tensor] | Tensor, scale: Sequence[float]) -> Tensor:
        """The sum of the terms, each times its factor; a scalar."""
        return torch.stack([term * factor for term, factor in zip(terms, scale, strict=True)]).sum()

    @property
    def mean_shares(self) -> list[float]:
        """Realised share of each term, averaged over the steps of this process; they sum to 1."""
        return (self._sum / max(1, self._steps)).tolist()


class ClassBalanced(Section):
    """Rare classes count more: by the effective number of their rows (Cui et al., arXiv 1901.05555, eq. 2)."""

    beta: float = Field(0.999, ge=0, lt=1, description="0: as they come; towards 1: every class alike (unitless)")


class Power(Section):
    """How sharply the weight follows its measure."""

    gamma: float = Field(1.0, gt=0, description="exponent of the measure (unitless)")


class Share(Section):
    """How many positions are kept."""

    share: float = Field(0.2, gt=0, le=1, description="share of a rank's positions that is kept; at least one position")


class Tokens(Section):
    """Which targets count by another factor, as the words of a domain."""

    words: list[str] = Field([], description="words as the task's tokenizer writes them, or names of classes")
    ids: list[int] = Field([], description="target ids, of tokens or classes")
    runs: list[list[int]] = Field([], description="ids of targets that count where they stand in a row: a long word's")
    weight: float = Field(2.0, ge=0, description="their weight beside 1 for the others (unitless)")

    @model_validator(mode="after")
    def something_is_named(self) -> Self:
        """Refuse a rule for no target, and a run of none."""
        if not (self.words or self.ids or self.runs) or not all(self.runs):
            raise ValueError("words, ids or runs (each with an id)")
        return self


def class_balanced(signals: Signals, params: ClassBalanced) -> Tensor:
    """(1 - beta) / (1 - beta^n) of the target's class, n its rows in the packed table; [Q]. Reads target_counts_V."""
    assert signals.target_counts_V is not None
    count_Q = signals.target_counts_V[signals.targets_Q].double().clamp_min(1)
    return ((1 - params.beta) / (1 - params.beta**count_Q)).float()


def difficult(signals: Signals, params: Power) -> Tensor:
    """(1 - q(target))^gamma of the student: what it already knows counts little (focal loss, arXiv 1708.02002); [Q]."""
    return (1 - _likelihood(signals)).clamp_min(0) ** params.gamma


def teacher_unsure(signals: Signals, params: Power) -> Tensor:
    """(1 - margin)^gamma, the margin between the teacher's two likeliest answers at T=1: hard rows count more; [Q]."""
    top_Q2 = _top(_teacher(signals), 2)
    return (1 - (top_Q2[:, 0] - top_Q2[:, 1])).clamp_min(0) ** params.gamma


def teacher_confident(signals: Signals, params: Power) -> Tensor:
    """(largest probability of the teacher at T=1)^gamma: doubtful labels count less; [Q]."""
    return _top(_teacher(signals), 1)[:, 0] ** params.gamma


def student_entropy(signals: Signals, params: Share) -> Tensor:
    """1 for the positions whose student distribution at T=1 has most entropy, else 0; [Q]."""
    return _most(_entropy(signals.student_logits_QV), params.share)


def teacher_entropy(signals: Signals, params: Share) -> Tensor:
    """1 for the positions whose teacher distribution at T=1 has most entropy, else 0; [Q]."""
    assert signals.teacher_entropy_Q is not None
    return _most(signals.teacher_entropy_Q, params.share)


def tokens(signals: Signals, params: Tokens) -> Tensor:
    """`weight` where the target is one of `ids` or part of one of `runs`, else 1; [Q].

    Rows stand one behind the other in Q: a run is looked for across their ends too. `words` are runs by then
    (`jobs.training.words`).
    """
    targets_Q = signals.targets_Q
    chosen_Q = torch.isin(targets_Q, torch.tensor(params.ids, dtype=torch.long, device=targets_Q.device))
    for run in params.runs:
        starts = max(0, len(targets_Q) - len(run) + 1)
        here_S = torch.ones(starts, dtype=torch.bool, device=targets_Q.device)
        for place, token in enumerate(run):
            here_S &= targets_Q[place : place + starts] == token
        for place in range(len(run)):
            chosen_Q[place : place + starts] |= here_S
    return torch.where(chosen_Q, params.weight, 1.0)


@dataclass(frozen=True)
class Rule:
    """A rule: its function of (signals, params) -> weights [Q] >= 0, its parameter model, and the signals it needs."""

    function: Callable[[Any, Any], Tensor]
    params: type[Section]
    needs: tuple[str, ...] = ()


RULES: dict[str, Rule] = {
    "class_balanced": Rule(class_balanced, ClassBalanced, ("target_counts_V",)),
    "difficult": Rule(difficult, Power),
    "student_entropy": Rule(student_entropy, Share),
    "teacher_confident": Rule(teacher_confident, Power, ("teacher_logits_QV",)),
    "teacher_entropy": Rule(teacher_entropy, Share, ("teacher_entropy_Q",)),
    "teacher_unsure": Rule(teacher_unsure, Power, ("teacher_logits_QV",)),
    "tokens": Rule(tokens, Tokens),
}


def weigh(signals: Signals, rules: Sequence[tuple[Rule, Section]]) -> Tensor | None:
    """The product of the rules' weights float32 [Q], no gradient; None without rules: every position alike."""
    if not rules:
        return None
    with torch.no_grad():
        return torch.stack([rule.function(signals, params).float() for rule, params in rules]).prod(0)


def _teacher(signals: Signals) -> Tensor:
    assert signals.teacher_logits_QV is not None
    return signals.teacher_logits_QV


def _in_chunks(logits_QV: Tensor, measure: Callable[[Tensor], Tensor]) -> Tensor:
    parts = torch.split(logits_QV.detach(), rows_at_once(logits_QV.shape[-1]))
    return torch.cat([measure(full(part)) for part in parts])


def _entropy(logits_QV: Tensor) -> Tensor:
    def measure(logits_NV: Tensor) -> Tensor:
        log_p = F.log_softmax(logits_NV, -1)
        return -(log_p.exp() * log_p).sum(-1)

    return _in_chunks(logits_QV, measure)


def _top(logits_QV: Tensor, count: int) -> Tensor:
    return _in_chunks(logits_QV, lambda part: (part.topk(count).values - part.logsumexp(-1, keepdim=True)).exp())


def _likelihood(signals: Signals) -> Tensor:
    logits_QV = signals.student_logits_QV.detach()
    at_Q = logits_QV.gather(-1, signals.targets_Q[:, None])[:, 0]
    return (full(at_Q) - _in_chunks(logits_QV, lambda part: part.logsumexp(-1))).exp()


def _most(measure_Q: Tensor, share: float) -> Tensor:
    kept = max(1, round(share * len(measure_Q)))
    weights_Q = torch.zeros_like(measure_Q)
    weights_Q[measure_Q.topk(kept).indices] = 1
    return weights_Q
