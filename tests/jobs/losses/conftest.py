"""Made-up signals in float64, the value of a loss by name, and the losses that such signals can feed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from jobs.training.losses import LOSSES, Signals

Q, V, H, W = 12, 7, 5, 4


def make(seed: int = 0, scale: float = 1.0, alike: bool = False, dtype: torch.dtype = torch.float64) -> Signals:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    teacher, hidden, start = draw(Q, V), draw(Q, H), draw(3, 2)
    student = teacher.clone() if alike else draw(Q, V)
    adapted = hidden.clone() if alike else draw(Q, H)
    features = hidden.clone() if alike else draw(Q, W)
    now = start.clone() if alike else draw(3, 2)
    maps, relations = draw(2, 3, 4, 4), {name: draw(2, 5, 16) for name in ("query", "key", "value")}
    own_maps = maps.clone() if alike else draw(2, 2, 4, 4)
    own_relations = {name: (x.clone() if alike else draw(2, 5, 8)).requires_grad_() for name, x in relations.items()}
    slopes = draw(4, 3, 2, 2)
    own_slopes = slopes.clone() if alike else draw(4, 3, 2, 2)
    return Signals(
        student.requires_grad_(),
        teacher.argmax(-1),
        teacher,
        adapted.requires_grad_(),
        hidden,
        student_features_QW=features.requires_grad_(),
        start_weights=((now.requires_grad_(), start),),
        target_counts_V=torch.arange(1, V + 1),
        student_maps_BCHW=own_maps.requires_grad_(),
        teacher_maps_BDHW=maps,
        student_projections=own_relations,
        teacher_projections=relations,
        mask_BS=torch.arange(5) < torch.tensor([[5], [3]]),
        masked_logits_MV=draw(6, V).requires_grad_(),
        masked_targets_M=torch.arange(6),
        student_slopes=own_slopes.requires_grad_(),
        teacher_slopes=slopes,
    )


def learns(given: Signals) -> list[torch.Tensor]:
    """What a gradient can reach."""
    assert given.student_hidden_QH is not None
    assert given.student_features_QW is not None
    assert given.start_weights is not None
    first = [given.student_logits_QV, given.student_hidden_QH, given.student_features_QW, given.start_weights[0][0]]
    inside = (given.student_maps_BCHW, *(given.student_projections or {}).values(), given.masked_logits_MV,
              given.student_slopes)  # fmt: skip
    return first + [tensor for tensor in inside if tensor is not None]


@pytest.fixture
def signals() -> Callable[..., Signals]:
    return make


@pytest.fixture
def value() -> Callable[..., torch.Tensor]:
    def of(name: str, given: Signals, **params: Any) -> torch.Tensor:
        return LOSSES[name].function(given, LOSSES[name].params.parse(params))

    return of


@pytest.fixture
def gradients() -> Callable[..., list[torch.Tensor]]:
    def of(name: str, given: Signals, **params: Any) -> list[torch.Tensor]:
        for tensor in learns(given):
            tensor.grad = None
        LOSSES[name].function(given, LOSSES[name].params.parse(params)).backward()
        return [tensor.grad for tensor in learns(given) if tensor.grad is not None]

    return of
