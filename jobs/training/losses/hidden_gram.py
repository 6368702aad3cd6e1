"""The angles and distances among a batch's hidden states, without an adapter: their Gram matrices are compared.

A linear adapter and CKA can both reach zero with another geometry; equal Gram matrices cannot
(arXiv 2509.25253; similarity-preserving distillation, arXiv 1907.09682, compares rows of the same matrix).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import full

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    positions: int = Field(
        512, ge=2, description="at most this many positions of a batch, evenly spaced: the matrix is their square"
    )


def hidden_gram(signals: Signals, params: Params) -> Tensor:
    """||K_s - K_t||_F^2 / ||K_t||_F^2 with K = X X^T [Q, Q]; scalar, >= 0, 1 = a student that says nothing.

    X are the states minus their mean over Q, divided by their root mean squared length: neither shift, rotation nor
    scale counts, so widths may differ. Reads student_features_QW (no adapter) and teacher_hidden_QH.
    """
    assert signals.student_features_QW is not None
    assert signals.teacher_hidden_QH is not None
    k_s, k_t = (_gram(full(x), params.positions) for x in (signals.student_features_QW, signals.teacher_hidden_QH))
    return (k_s - k_t).pow(2).sum() / k_t.pow(2).sum().clamp_min(1e-12)


def _gram(x_QW: Tensor, positions: int) -> Tensor:
    x_QW = x_QW[:: -(-len(x_QW) // positions)]
    x_QW = x_QW - x_QW.mean(0)
    k_QQ = x_QW @ x_QW.T
    return k_QQ / k_QQ.diagonal().mean().clamp_min(1e-12)
