"""The mean of a loss over scored positions, weighted and in chunks, so that log-probabilities never fill a batch.

A chunk's gradient is taken right after its value, while its log-probabilities are there, and written into one buffer of
the logits' size: beside the logits and this gradient nothing of a batch times a vocabulary ever exists (the idea of
Liger's fused losses, arXiv 2410.10989, section 3.2). Checkpointed chunks were tried first: 1.8 times the time, and no
lower peak, as the pieces of the gradient are kept until they are joined.

Shape legend: Q scored positions, N those of a chunk, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jobs.training.losses import Signals

CHUNK = 1 << 22  # logits at once: 16 MiB in float32, 83 positions of GPT-2's 50,257 tokens

Mean = Callable[[Tensor], Tensor]
Formula = Callable[..., Tensor]


def rows_at_once(width: int) -> int:
    """Positions of `width` logits that make a chunk, at least 1."""
    return max(1, CHUNK // width)


def full(values: Tensor) -> Tensor:
    """Half-precision values as float32: a sum over a vocabulary in bfloat16 has three digits. Others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def over_logits(signals: Signals, formula: Formula) -> Tensor:
    """`mean_over` of the student's and the teacher's logits: `formula(mean, student_NV, teacher_NV)`."""
    assert signals.teacher_logits_QV is not None
    return mean_over(formula, signals.weights_Q, signals.student_logits_QV, signals.teacher_logits_QV)


def mean_over(formula: Formula, weights_Q: Tensor | None, logits_QV: Tensor, *others: Tensor) -> Tensor:
    """A scalar `formula(mean, logits_NV, *others_N)`, summed over chunks of positions.

    `mean` takes [N] or [N, ...] to the sum over everything behind N and the mean over all Q: the weighted mean
    sum(w x) / sum(w) where there are weights. A position of weight 0 is left out before anything is computed, so that
    what it holds (NaN too) touches neither value nor gradient. The formula must be linear in what `mean` returns.
    With no weight above 0 the result is 0 and so is its gradient. Only `logits_QV` gets a gradient.
    """
    inputs = (logits_QV, *others)
    if weights_Q is not None and not bool((weights_Q > 0).all()):
        kept_Q = weights_Q > 0
        inputs, weights_Q = tuple(values[kept_Q] for values in inputs), weights_Q[kept_Q]
    count = len(inputs[0])
    if count == 0:
        return inputs[0].sum()
    total = count if weights_Q is None else weights_Q.sum()
    rows = rows_at_once(logits_QV.shape[-1])
    if count <= rows:
        return _part(formula, total, weights_Q, *inputs)
    learns = torch.is_grad_enabled() and inputs[0].requires_grad
    value: Tensor = _Chunked.apply(formula, rows, learns, total, weights_Q, *inputs)  # type: ignore[no-untyped-call]
    return value


class _Chunked(torch.autograd.Function):
    """The sum of `_part` over chunks, with its gradient by the logits ready when the value is."""

    @staticmethod
    def forward(
        ctx: Any,
        formula: Formula,
        rows: int,
        learns: bool,
        total: float | Tensor,
        weights_Q: Tensor | None,
        *inputs: Tensor,
    ) -> Tensor:
        ctx.gradient, ctx.others = torch.empty_like(inputs[0]) if learns else None, len(inputs) - 1
        values = []
        for start in range(0, len(inputs[0]), rows):
            part = slice(start, start + rows)
            weights_N = None if weights_Q is None else weights_Q[part]
            with torch.set_grad_enabled(learns):
                logits_NV = inputs[0][part].detach().requires_grad_(learns)
                value = _part(formula, total, weights_N, logits_NV, *(own[part] for own in inputs[1:]))
            if learns:
                ctx.gradient[part] = torch.autograd.grad(value, logits_NV)[0]
            values.append(value.detach())
        return torch.stack(values).sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # In place, for a second tensor of this size is what all this avoids; hence once only, like any freed graph.
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            raise RuntimeError("a chunked loss goes backward once: compute it again instead of retain_graph=True")
        return None, None, None, None, None, gradient.mul_(outer[0]), *[None] * ctx.others


def _part(formula: Formula, total: float | Tensor, weights_N: Tensor | None, *inputs: Tensor) -> Tensor:
    def mean(values: Tensor) -> Tensor:
        if weights_N is None:
            return values.sum() / total
        return (values.flatten(1).sum(-1) if values.dim() > 1 else values) @ weights_N.to(values.dtype) / total

    return formula(mean, *(full(values) for values in inputs))
