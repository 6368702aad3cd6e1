"""Losses on hidden states and weights against their definitions, and what each of them does not care about."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.training.losses import Signals

Make, Value = Callable[..., Signals], Callable[..., torch.Tensor]


def arrays(given: Signals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Adapted [Q, H], plain [Q, W] and the teacher's [Q, H]."""
    assert given.student_hidden_QH is not None
    assert given.student_features_QW is not None
    assert given.teacher_hidden_QH is not None
    return (
        given.student_hidden_QH.detach().numpy(),
        given.student_features_QW.detach().numpy(),
        given.teacher_hidden_QH.numpy(),
    )


def test_hidden_mse_of_the_mean_prediction_is_one_for_any_teacher_scale(signals: Make, value: Value) -> None:
    for scale in (0.01, 100.0):
        given = signals(scale=scale)
        assert given.teacher_hidden_QH is not None
        flat = replace(given, student_hidden_QH=given.teacher_hidden_QH.mean(0).expand(12, 5))
        assert value("hidden_mse", flat).item() == pytest.approx(1.0)


def test_hidden_cosine_agrees_with_its_definition_and_ignores_length(signals: Make, value: Value) -> None:
    given = signals()
    s, _, t = arrays(given)
    cosine = (s * t).sum(-1) / np.linalg.norm(s, axis=-1) / np.linalg.norm(t, axis=-1)
    assert value("hidden_cosine", given).item() == pytest.approx(1 - cosine.mean(), rel=1e-9)
    longer = replace(given, student_hidden_QH=7 * given.teacher_hidden_QH)
    assert value("hidden_cosine", longer).item() == pytest.approx(0, abs=1e-12)


def test_hidden_gram_agrees_with_its_definition(signals: Make, value: Value) -> None:
    given = signals()
    _, s, t = arrays(given)
    k = []
    for x in (s - s.mean(0), t - t.mean(0)):
        k.append(x @ x.T / (x**2).sum(-1).mean())
    expected = ((k[0] - k[1]) ** 2).sum() / (k[1] ** 2).sum()
    assert value("hidden_gram", given).item() == pytest.approx(expected, rel=1e-9)
    assert value("hidden_gram", given, positions=6).item() != pytest.approx(expected)  # every second one


def test_hidden_procrustes_agrees_with_the_best_rotation_found_by_hand(signals: Make, value: Value) -> None:
    given = signals()
    _, s, t = arrays(given)
    a, b = (x - x.mean(0) for x in (np.pad(s, ((0, 0), (0, 1))), t))
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    u, _, vt = np.linalg.svd(a.T @ b)
    assert value("hidden_procrustes", given).item() == pytest.approx(((a @ u @ vt - b) ** 2).sum(), rel=1e-9)


@pytest.mark.parametrize("name", ["hidden_gram", "hidden_procrustes"])
def test_losses_without_an_adapter_ignore_rotation_scale_and_shift_and_see_a_stretch(
    name: str, signals: Make, value: Value
) -> None:
    given = signals()
    t = given.teacher_hidden_QH
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert value(name, replace(given, student_features_QW=3 * t @ rotation + 2)).item() == pytest.approx(0, abs=1e-12)
    stretched = t * torch.tensor([1.0, 1, 1, 1, 8], dtype=torch.float64)
    assert value(name, replace(given, student_features_QW=stretched)).item() > 0.05


def test_contrastive_agrees_with_its_definition_and_chance_is_log_q(signals: Make, value: Value) -> None:
    given = signals()
    s, _, t = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in arrays(given))
    z = s @ t.T / 0.07
    own = np.diag(z)
    expected = (np.log(np.exp(z).sum(1)) - own + np.log(np.exp(z).sum(0)) - own).mean() / 2
    assert value("contrastive", given).item() == pytest.approx(expected, rel=1e-9)
    same = replace(given, student_hidden_QH=torch.ones(12, 5), teacher_hidden_QH=torch.ones(12, 5))
    assert value("contrastive", same).item() == pytest.approx(np.log(12), rel=1e-6)


def test_contrastive_brings_a_student_to_its_teachers_order_of_neighbours() -> None:
    from jobs.training.losses.contrastive import Params, contrastive

    generator = torch.Generator().manual_seed(0)
    text = torch.randn(32, 8, generator=generator)
    picture = text @ torch.randn(8, 6, generator=generator)
    adapter = torch.zeros(8, 6, requires_grad=True)
    adapter.data.normal_(generator=generator)
    first = last = 0.0
    optimizer = torch.optim.Adam([adapter], lr=0.1)
    for step in range(100):
        logits = torch.zeros(32, 2)
        loss = contrastive(Signals(logits, logits[:, 0], None, text @ adapter, picture), Params())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (loss.item(), 0.0) if step == 0 else (first, loss.item())
    found = (F.normalize(text @ adapter, dim=-1) @ F.normalize(picture, dim=-1).T).argmax(-1)
    assert last < first / 2 and (found == torch.arange(32)).float().mean() > 0.5


def test_initial_weights_is_half_the_squared_distance_and_pulls_straight_back(signals: Make, value: Value) -> None:
    given = signals()
    assert given.start_weights is not None
    now, start = given.start_weights[0]
    loss = value("initial_weights", given)
    loss.backward()
    assert loss.item() == pytest.approx(((now - start) ** 2).sum().item() / 2, rel=1e-6)
    torch.testing.assert_close(now.grad, (now - start).detach(), rtol=1e-6, atol=1e-6)
