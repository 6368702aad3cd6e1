"""Who resembles whom among a row's queries, keys and values (MiniLMv2, arXiv 2012.15828, eq. 5; MiniLM, 2002.10957).

No adapter; other widths and head counts. The paper compares one layer, here those of a stage's `layers`, for which the
teacher runs beside the student (`live_teacher`).

Shape legend: B rows, S tokens, W student width, H teacher width, R relation heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cluster.recipe.base import Section

if TYPE_CHECKING:
    from jobs.training.losses import Signals


class Params(Section):
    """Parameters of the term."""

    relation_heads: int = Field(
        8, ge=1, description="pieces that both widths are cut into (count); more than attention heads in the paper"
    )
    projections: list[Literal["query", "key", "value"]] = Field(
        ["query", "key", "value"], min_length=1, description="what is compared with itself (names). Source: eq. 5"
    )


def term(signals: Signals, params: Params) -> Tensor:
    """`relation_transfer` of one layer pair; scalar. Reads student_projections, teacher_projections and mask_BS."""
    assert signals.student_projections is not None
    assert signals.teacher_projections is not None
    assert signals.mask_BS is not None
    own: dict[str, Tensor] = {name: signals.student_projections[name] for name in params.projections}
    theirs: dict[str, Tensor] = {name: signals.teacher_projections[name] for name in params.projections}
    return relation_transfer(own, theirs, signals.mask_BS, params.relation_heads)


def relation_transfer(
    student_BSW: Mapping[str, Tensor], teacher_BSH: Mapping[str, Tensor], mask_BS: Tensor, relation_heads: int = 12
) -> Tensor:
    """Sum over the named projections (query, key, value) of the mean KL(R_t || R_s); scalar, nats, >= 0.

    R = softmax(X X^T / sqrt(d)) [B, R, S, S], X a projection with its heads concatenated and cut into
    `relation_heads` of width d. The mean is over relation heads and the tokens that `mask_BS` (bool) keeps; the others
    are no key either.
    Raises ValueError when the names differ or a width is no multiple of `relation_heads`.
    """
    if set(student_BSW) != set(teacher_BSH):
        raise ValueError(f"projections differ: student {sorted(student_BSW)}, teacher {sorted(teacher_BSH)}")
    total = torch.zeros((), device=mask_BS.device)
    for name in sorted(student_BSW):
        q, p = (_relations(x, mask_BS, relation_heads) for x in (student_BSW[name], teacher_BSH[name]))
        kl_BRS = (p.exp() * (p - q)).masked_fill(~mask_BS[:, None, None, :], 0.0).sum(-1)
        total = total + kl_BRS.transpose(1, 2)[mask_BS].mean()
    return total


def _relations(x_BSW: Tensor, mask_BS: Tensor, heads: int) -> Tensor:
    """Log relations [B, R, S, S]; to a masked key the least finite number, so that differences stay finite."""
    rows, tokens, width = x_BSW.shape
    if width % heads:
        raise ValueError(f"relation_heads: {heads} does not divide a width of {width}")
    x_BSW = torch.where(mask_BS[:, :, None], x_BSW, torch.zeros_like(x_BSW))
    x_BRSd = x_BSW.view(rows, tokens, heads, width // heads).transpose(1, 2)
    scores_BRSS = x_BRSd @ x_BRSd.transpose(-1, -2) / (width // heads) ** 0.5
    masked = scores_BRSS.masked_fill(~mask_BS[:, None, None, :], torch.finfo(scores_BRSS.dtype).min)
    return F.log_softmax(masked, -1)
