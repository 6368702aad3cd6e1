"""Cross entropy against soft labels that hold some tokens of a large vocabulary with importance weights.

Sparse Logit Sampling, arXiv 2503.16870: draws from the teacher's own distribution give the full vocabulary's gradient
in the mean, which no truncated list does (DESIGN, decision 1). Its noise does not fall as the student comes near, so a
student that starts from the teacher's weights ends where the noise is; a control variate takes that away. With r = q/p
of the drawn tokens sum_k w_k r_k e_k estimates q, which is known: lambda times the difference may be taken off. The
variance of what is left is (1 - 2 lambda + lambda^2 (1 + chi^2(q, p))) / draws, least at lambda = 1 / (1 + chi^2): it
vanishes with the distance to the teacher and is never above that without.

Shape legend: Q scored positions, N those of a chunk, K entries, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section
from jobs.training.positions import Mean, full, mean_over, rows_at_once

if TYPE_CHECKING:
    from jobs.training.losses import Signals

RATIO_MAX = 30.0  # nats: q / p beyond it would only overflow, and lambda is 0 long before


class Params(Section):
    """Parameters of the term."""

    temperature: float = Field(1.0, gt=0, description="distillation temperature T; the draws' own has the least noise")
    normalised: bool = Field(
        False, description="divide the weights by their sum: less noise and a bias of order 1/draws where T is another"
    )
    control: bool = Field(
        True, description="control variate against the draws' noise, wherever log-sum-exp is stored for T"
    )


def sampled_cross_entropy(signals: Signals, params: Params) -> Tensor:
    """T^2 * mean over Q of -sum_k w_k(T) log q_T(id_k); scalar, nats, never negative.

    Its gradient's mean over draws is that of `forward_kl`; its value lies above it by T^2 times the teacher's entropy.
    Reads student_logits_QV and teacher_sparse. Raises MismatchError as `SparseLabels.weights`.
    """
    labels, t, logits_QV = signals.teacher_sparse, params.temperature, signals.student_logits_QV
    assert labels is not None
    weight_QK = labels.weights(t, params.normalised)
    others = [labels.ids_QK, weight_QK]
    log_p_QK = labels.log_probabilities(t) if params.control else None
    if log_p_QK is not None:
        kept_Q = (
            torch.ones_like(weight_QK[:, 0], dtype=torch.bool) if signals.weights_Q is None else signals.weights_Q > 0
        )
        others += [log_p_QK, _lambda(logits_QV.detach() / t, labels.ids_QK, weight_QK, log_p_QK, kept_Q)]

    def formula(mean: Mean, logits_NV: Tensor, ids_NK: Tensor, weight_NK: Tensor, *control: Tensor) -> Tensor:
        log_q_NK = F.log_softmax(logits_NV / t, -1).gather(-1, ids_NK)
        weight_NK = weight_NK.to(log_q_NK.dtype)
        value = -mean(weight_NK * log_q_NK)
        if control:
            log_p_NK, lambda_N = control
            taken_NK = lambda_N[:, None] * weight_NK * _ratio(log_q_NK.detach(), log_p_NK)
            off = mean(taken_NK.to(log_q_NK.dtype) * log_q_NK)
            value = value + (off - off.detach())  # a gradient whose mean is zero, and no value
        return value * t**2

    return mean_over(formula, signals.weights_Q, logits_QV, *others)


def _ratio(log_q_NK: Tensor, log_p_NK: Tensor) -> Tensor:
    return (log_q_NK - log_p_NK).clamp(max=RATIO_MAX).exp()


@torch.no_grad()
def _lambda(logits_QV: Tensor, ids_QK: Tensor, weight_QK: Tensor, log_p_QK: Tensor, kept_Q: Tensor) -> Tensor:
    """1 / (1 + chi^2) float [Q] with the mean chi^2 of all other kept positions: a position's own draws are not in its
    lambda, so the gradient's mean stays exact. 0 where there is no other."""
    chi2 = []
    step = rows_at_once(logits_QV.shape[-1])
    for rows in (slice(start, start + step) for start in range(0, len(ids_QK), step)):
        logits_NV = full(logits_QV[rows])
        log_q_NK = logits_NV.gather(-1, ids_QK[rows]) - logits_NV.logsumexp(-1, keepdim=True)
        chi2.append((weight_QK[rows] * _ratio(log_q_NK, log_p_QK[rows]) ** 2).sum(-1) - 1)
    chi2_Q = torch.where(kept_Q, torch.cat(chi2), torch.zeros_like(weight_QK[:, 0]))
    others = int(kept_Q.sum()) - 1
    if others < 1:
        return torch.zeros_like(chi2_Q)
    return 1 / (1 + ((chi2_Q.sum() - chi2_Q) / others).clamp_min(0))
