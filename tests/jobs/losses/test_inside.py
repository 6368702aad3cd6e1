"""Losses that look inside both networks: right by definition, blind to padding, and of use to gradient descent."""

import numpy as np
import pytest
import torch

from jobs.training.losses.attention_transfer import attention_transfer
from jobs.training.losses.input_gradient import gradient_of, input_gradient
from jobs.training.losses.relation_transfer import relation_transfer


def draw(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def test_attention_transfer_agrees_with_its_definition_and_is_zero_for_equal_maps() -> None:
    student, teacher = draw(3, 2, 4, 4).requires_grad_(), draw(3, 5, 4, 4, seed=1)
    q = [(x.detach().numpy() ** 2).sum(1).reshape(3, -1) for x in (student, teacher)]
    q = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in q]
    expected = ((q[0] - q[1]) ** 2).sum(1).mean()
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-9)
    own = attention_transfer(student, 3 * student.detach())
    own.backward()
    assert own.item() == pytest.approx(0, abs=1e-12) and student.grad is not None
    assert student.grad.abs().max().item() < 1e-12


def test_attention_transfer_pools_the_larger_map_and_leaves_padding_out() -> None:
    small, large = draw(2, 3, 4, 4), draw(2, 3, 4, 4).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert attention_transfer(small, large).item() == pytest.approx(0, abs=1e-12)
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[:, :, 3] = False
    spoilt = small.clone()
    spoilt[:, :, :, 3] = 1e4
    assert attention_transfer(spoilt, small, mask).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="one size"):
        attention_transfer(small, large, mask)


def relations(x: np.ndarray, heads: int) -> np.ndarray:
    rows, tokens, width = x.shape
    cut = x.reshape(rows, tokens, heads, width // heads).transpose(0, 2, 1, 3)
    scores = cut @ cut.transpose(0, 1, 3, 2) / np.sqrt(width // heads)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_relation_transfer_agrees_with_its_definition_for_other_widths() -> None:
    student = {name: draw(2, 5, 8, seed=i) for i, name in enumerate(("query", "key", "value"))}
    teacher = {name: draw(2, 5, 12, seed=9 + i) for i, name in enumerate(("query", "key", "value"))}
    expected = 0.0
    for name, own in student.items():
        p, q = relations(teacher[name].numpy(), 4), relations(own.numpy(), 4)
        expected += (p * np.log(p / q)).sum(-1).mean()
    mask = torch.ones(2, 5, dtype=torch.bool)
    assert relation_transfer(student, teacher, mask, 4).item() == pytest.approx(expected, rel=1e-9)


def test_relation_transfer_is_blind_to_padding_zero_for_equals_and_finite_at_extremes() -> None:
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    student = draw(2, 5, 8, scale=1e4).requires_grad_()
    teacher = draw(2, 5, 8, scale=1e4, seed=1)
    loss = relation_transfer({"value": student}, {"value": teacher}, mask, 2)
    loss.backward()
    assert torch.isfinite(loss) and loss.item() >= 0
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad[1, 3:].abs().max() == 0
    spoilt = teacher.clone()
    spoilt[1, 3:] = torch.nan
    assert relation_transfer({"value": spoilt}, {"value": teacher}, mask, 2).item() == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="does not divide"):
        relation_transfer({"value": student}, {"value": teacher}, mask, 3)
    with pytest.raises(ValueError, match="projections differ"):
        relation_transfer({"key": student}, {"value": teacher}, mask, 2)


def test_input_gradients_are_those_of_the_formula_and_can_be_taught() -> None:
    inputs, targets = draw(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    teacher, student = draw(4, 3, seed=1), draw(4, 3, seed=2).requires_grad_()

    def gradient(weights: torch.Tensor) -> torch.Tensor:
        given = inputs.clone().requires_grad_()
        return gradient_of(given @ weights, targets, given)

    by_hand = (torch.softmax(inputs @ teacher, -1) - torch.nn.functional.one_hot(targets, 3)) @ teacher.T
    torch.testing.assert_close(gradient(teacher.requires_grad_()).detach(), by_hand.detach())
    wanted = gradient(teacher).detach()
    assert input_gradient(wanted, wanted).item() == 0
    assert input_gradient(torch.zeros_like(wanted), wanted).item() == pytest.approx(1)
    optimizer = torch.optim.Adam([student], lr=0.05)
    losses = []
    for _ in range(100):
        loss = input_gradient(gradient(student), wanted)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 10
