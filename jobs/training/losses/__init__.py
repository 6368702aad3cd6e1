"""Loss terms by name: one file each, a pure function of tensors; a new loss is one file and one line here.

Shape legend: Q scored positions (tokens of all responses, or rows of a classifier), V vocabulary or classes,
H teacher hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cluster.errors import RecipeError
from cluster.recipe import Term
from cluster.recipe.base import Section
from jobs.training.losses import conditional_kl, cross_entropy, forward_kl, hidden_mse


@dataclass(frozen=True)
class Signals:
    """What the terms of one step may read; teacher signals are None where the artifact does not hold them."""

    student_logits_QV: Tensor
    targets_Q: Tensor
    teacher_logits_QV: Tensor | None = None
    student_hidden_QH: Tensor | None = None
    teacher_hidden_QH: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """A loss: its function of (signals, params) -> scalar, its parameter model, and the signals it needs."""

    function: Callable[[Any, Any], Tensor]
    params: type[Section]
    needs: tuple[str, ...] = ()


LOSSES: dict[str, Loss] = {
    "conditional_kl": Loss(conditional_kl.conditional_kl, conditional_kl.Params, ("teacher_logits_QV",)),
    "cross_entropy": Loss(cross_entropy.cross_entropy, cross_entropy.Params),
    "forward_kl": Loss(forward_kl.forward_kl, forward_kl.Params, ("teacher_logits_QV",)),
    "hidden_mse": Loss(hidden_mse.hidden_mse, hidden_mse.Params, ("teacher_hidden_QH",)),
}


def check(terms: Sequence[Term], where: str) -> None:
    """Refuse unknown losses and parameters before anything is started. Raises RecipeError naming the term."""
    for index, term in enumerate(terms):
        if term.name not in LOSSES:
            raise RecipeError(f"{where}.{index}: unknown loss", got=term.name, expected=", ".join(sorted(LOSSES)))
        LOSSES[term.name].params.parse(term.params, at=f"{where}.{index}.params")
    if not any(term.weight > 0 for term in terms):
        raise RecipeError(f"{where}: no loss has a weight above 0", got=[term.name for term in terms])
