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
    return Signals(
        student.requires_grad_(),
        teacher.argmax(-1),
        teacher,
        adapted.requires_grad_(),
        hidden,
        student_features_QW=features.requires_grad_(),
        start_weights=((now.requires_grad_(), start),),
        target_counts_V=torch.arange(1, V + 1),
    )


def learns(given: Signals) -> list[torch.Tensor]:
    """What a gradient can reach."""
    assert given.student_hidden_QH is not None
    assert given.student_features_QW is not None
    assert given.start_weights is not None
    return [given.student_logits_QV, given.student_hidden_QH, given.student_features_QW, given.start_weights[0][0]]


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
