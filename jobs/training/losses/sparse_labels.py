"""Soft labels of a large vocabulary as the losses read them: some tokens per position, and what weight each stands for.

Shape legend: Q scored positions, K entries of the fullest of them (the others are padded), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.errors import MismatchError


@dataclass(frozen=True)
class SparseLabels:
    """Columns of `cluster.schema` "soft_labels" but the dense ones, one row per position.

    `ids` int64 [Q, K]; `logits` float [Q, K] at T=1; `counts` [Q, K], 0 for an exact entry; `valid` bool [Q, K] is
    False for padding; `log_sum_exp` and `tail` at T=1, `log_sum_exp_t` and `tail_t` at `temperature`, each [Q] (tails
    are None in forms that have none); `draws` per position at `temperature` (0: none).
    """

    ids_QK: Tensor
    logits_QK: Tensor
    counts_QK: Tensor
    valid_QK: Tensor
    log_sum_exp_Q: Tensor
    log_sum_exp_t_Q: Tensor
    temperature: float
    draws: int
    tail_Q: Tensor | None = None
    tail_t_Q: Tensor | None = None

    def log_sum_exp(self, temperature: float) -> Tensor | None:
        """Of all V logits over `temperature`, [Q]; None where it was not stored for this T."""
        if temperature == self.temperature:
            return self.log_sum_exp_t_Q
        return self.log_sum_exp_Q if temperature == 1.0 else None

    def tail(self, temperature: float) -> Tensor | None:
        """Mass beyond the exact entries at `temperature`, [Q]; None where it was not stored."""
        if temperature == self.temperature:
            return self.tail_t_Q
        return self.tail_Q if temperature == 1.0 else None

    def log_probabilities(self, temperature: float) -> Tensor | None:
        """log p_T of every entry, [Q, K]; None where log-sum-exp was not stored for this T."""
        lse_Q = self.log_sum_exp(temperature)
        return None if lse_Q is None else self.logits_QK / temperature - lse_Q[:, None]

    def weights(self, temperature: float, normalised: bool) -> Tensor:
        """What every entry stands for of the teacher's distribution at T, [Q, K]; padding has 0.

        Exact entries have p_T, drawn ones w_i(T) of `jobs.data.labels.sampled` and `top_k_sampled`. Plain weights are
        unbiased and need log-sum-exp at T; `normalised` ones sum to 1 over what is there. Raises MismatchError when
        plain weights are asked for at a T that nothing was stored for.
        """
        lse_Q = self.log_sum_exp(temperature)
        if lse_Q is None and not normalised:
            got, expected = f"T={temperature:g}", f"T=1 or T={self.temperature:g}, or normalised weights"
            raise MismatchError("soft labels hold no log-sum-exp at this temperature", got=got, expected=expected)
        shift_Q = torch.zeros_like(self.log_sum_exp_Q) if lse_Q is None else lse_Q
        log_p_QK = self.logits_QK / temperature - shift_Q[:, None]
        weight_QK = log_p_QK.exp()
        if self.draws:
            proposal_QK = self.logits_QK / self.temperature - self.log_sum_exp_t_Q[:, None]
            drawn_QK = self.counts_QK / self.draws * (log_p_QK - proposal_QK).exp()
            if self.tail_t_Q is not None:
                drawn_QK = drawn_QK * self.tail_t_Q[:, None]
            exact_QK = (self.counts_QK == 0) if self.tail_t_Q is not None else torch.zeros_like(self.valid_QK)
            weight_QK = torch.where(exact_QK, weight_QK, drawn_QK)
        weight_QK = torch.where(self.valid_QK, weight_QK, torch.zeros_like(weight_QK))
        return weight_QK / weight_QK.sum(-1, keepdim=True) if normalised else weight_QK
