"""A stage's loss terms as they stand at one step: weights, parameters and rules with every change worked out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cluster.recipe import Term
from cluster.recipe.base import Section
from cluster.recipe.training import LossTerm
from jobs.training.losses import LOSSES, PAIRED, Loss, Signals
from jobs.training.schedules import params_at, value_at
from jobs.training.weighting import RULES, Rule, weigh


@dataclass(frozen=True)
class Active:
    """One term at one step."""

    weight: float
    loss: Loss
    params: Section
    focus: tuple[tuple[Rule, Section], ...]

    def value(self, signals: Signals) -> tuple[Tensor, Tensor | None]:
        """The loss, a scalar mean over this rank's positions, and how much these count (scalar; None: one each).

        Of a loss that looks inside, the mean over the stage's layer pairs.
        """
        weights_Q = weigh(signals, self.focus)
        signals = replace(signals, weights_Q=weights_Q)
        each = signals.pairs if PAIRED & set(self.loss.needs) else ()
        values: list[Tensor] = [self.loss.function(replace(signals, **pair), self.params) for pair in each or ({},)]
        loss = values[0] if len(values) == 1 else torch.stack(values).mean()
        return loss, None if weights_Q is None else weights_Q.sum()


def terms_at(terms: Sequence[Term | LossTerm], step: int, steps: int, metric: float = 0.0) -> list[Active]:
    """The stage's terms at `step` of `steps`, a pure function of both and of the `metric` that was measured last; a
    plain `Term` takes every position alike."""
    return [_active(term, step, steps, metric) for term in terms]


def _active(term: Term | LossTerm, step: int, steps: int, metric: float) -> Active:
    loss, focus = LOSSES[term.name], term.focus if isinstance(term, LossTerm) else []
    rules = tuple((RULES[rule.name], RULES[rule.name].params.parse(rule.params)) for rule in focus)
    params = loss.params.parse(params_at(term.params, step, steps, metric=metric))
    return Active(value_at(term.weight, step, steps, metric), loss, params, rules)
