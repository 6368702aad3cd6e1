"""Losses against their definitions written again in numpy (float64), against torch's own, and against trl's formula."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jobs.training.losses import LOSSES, Signals

Make, Value = Callable[..., Signals], Callable[..., torch.Tensor]


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum(-1).mean())


def given_p_q(given: Signals, t: float) -> tuple[np.ndarray, np.ndarray]:
    assert given.teacher_logits_QV is not None
    return softmax(given.teacher_logits_QV.numpy() / t), softmax(given.student_logits_QV.detach().numpy() / t)


def mix(p: np.ndarray, q: np.ndarray, share: float) -> np.ndarray:
    return share * p + (1 - share) * q


DIVERGENCES: dict[str, tuple[dict[str, float], Callable[[np.ndarray, np.ndarray], float]]] = {
    "forward_kl": ({}, lambda p, q: 4 * kl(p, q)),
    "reverse_kl": ({}, lambda p, q: 4 * kl(q, p)),
    "jensen_shannon": ({"beta": 0.3}, lambda p, q: 4 * (0.3 * kl(p, mix(p, q, 0.3)) + 0.7 * kl(q, mix(p, q, 0.3)))),
    "skew_kl": ({"alpha": 0.1}, lambda p, q: 4 * kl(p, mix(p, q, 0.1))),
    "skew_reverse_kl": ({"alpha": 0.1}, lambda p, q: 4 * kl(q, mix(p, q, 0.9))),
    "total_variation": ({}, lambda p, q: 2 * float(np.abs(p - q).sum(-1).mean()) / 2),
}


@pytest.mark.parametrize("name", sorted(DIVERGENCES))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_divergences_agree_with_their_definitions(name: str, seed: int, signals: Make, value: Value) -> None:
    given = signals(seed, scale=3.0)
    params, by_hand = DIVERGENCES[name]
    expected = by_hand(*given_p_q(given, 2.0))
    assert value(name, given, temperature=2.0, **params).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_jensen_shannon_agrees_with_the_formula_that_trl_uses(beta: float, signals: Make, value: Value) -> None:
    # trl's GKD: log mixture by logsumexp of the shifted log-probabilities, then two kl_div calls; no factor T^2.
    given, t = signals(scale=2.0), 2.0
    student, teacher = (F.log_softmax(z / t, -1) for z in (given.student_logits_QV, given.teacher_logits_QV))
    b = torch.tensor(beta, dtype=torch.float64)
    mixture = torch.logsumexp(torch.stack([student + torch.log1p(-b), teacher + torch.log(b)]), dim=0)
    parts = [F.kl_div(mixture, one, reduction="batchmean", log_target=True) for one in (teacher, student)]
    expected = t**2 * (b * parts[0] + (1 - b) * parts[1])
    ours = value("jensen_shannon", given, temperature=t, beta=beta)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-12)


def test_jensen_shannon_tends_to_forward_and_reverse_kl_at_its_ends(signals: Make, value: Value) -> None:
    given, small = signals(), 1e-6
    near_forward = value("jensen_shannon", given, beta=small).item() / small
    near_reverse = value("jensen_shannon", given, beta=1 - small).item() / small
    assert near_forward == pytest.approx(value("forward_kl", given, temperature=1.0).item(), rel=1e-4)
    assert near_reverse == pytest.approx(value("reverse_kl", given).item(), rel=1e-4)


def test_bounded_divergences_keep_their_bounds_where_kl_grows(signals: Make, value: Value) -> None:
    given = signals(scale=1e3)
    assert value("skew_kl", given).item() <= np.log(10) + 1e-9
    assert value("skew_reverse_kl", given).item() <= np.log(10) + 1e-9
    assert value("jensen_shannon", given).item() <= np.log(2) + 1e-9
    assert value("total_variation", given).item() <= 1 + 1e-9
    assert value("forward_kl", given, temperature=1.0).item() > 100


def test_conditional_kl_agrees_with_its_definition(signals: Make, value: Value) -> None:
    given = signals()
    top = given.teacher_logits_QV.topk(3).indices
    p, q = (logits.gather(-1, top) for logits in (given.teacher_logits_QV, given.student_logits_QV))
    inside_p, inside_q = torch.softmax(p / 4, -1), torch.softmax(q / 4, -1)
    inside = 16 * (inside_p * (inside_p.log() - inside_q.log())).sum(-1).mean()
    logits = given.teacher_logits_QV, given.student_logits_QV
    mass_p, mass_q = (torch.softmax(every, -1).gather(-1, top).sum(-1) for every in logits)
    tail = mass_p * (mass_p / mass_q).log() + (1 - mass_p) * ((1 - mass_p) / (1 - mass_q)).log()
    by_hand = inside + tail.mean()
    assert value("conditional_kl", given, likeliest=3).item() == pytest.approx(by_hand.item(), rel=1e-9)


def test_conditional_kl_over_the_whole_vocabulary_is_forward_kl(signals: Make, value: Value) -> None:
    given = signals()
    whole = value("conditional_kl", given, likeliest=7, temperature=4.0)
    assert whole.item() == pytest.approx(value("forward_kl", given, temperature=4.0).item(), rel=1e-12)


def test_decoupled_kd_agrees_with_its_definition_and_adds_up_to_forward_kl(signals: Make, value: Value) -> None:
    given = signals()
    p, q = given_p_q(given, 4.0)
    rows, target = np.arange(len(p)), given.targets_Q.numpy()
    others = np.ones_like(p, bool)
    others[rows, target] = False
    p_t, q_t = p[rows, target], q[rows, target]
    of_target = p_t * np.log(p_t / q_t) + (1 - p_t) * np.log((1 - p_t) / (1 - q_t))
    hat = [x[others].reshape(len(p), -1) / (1 - x[rows, target])[:, None] for x in (p, q)]
    of_others = (hat[0] * np.log(hat[0] / hat[1])).sum(-1)
    expected = 16 * (2.0 * of_target + 5.0 * of_others).mean()
    assert value("decoupled_kd", given, alpha=2.0, beta=5.0).item() == pytest.approx(expected, rel=1e-9)
    whole = 16 * (of_target + (1 - p_t) * of_others).mean()  # the paper's eq. 5
    assert value("forward_kl", given).item() == pytest.approx(whole, rel=1e-9)


def test_standardised_kl_agrees_with_its_definition_and_ignores_shift_and_scale(signals: Make, value: Value) -> None:
    given = signals()
    z = [x.detach().numpy() for x in (given.teacher_logits_QV, given.student_logits_QV)]
    p, q = (softmax((x - x.mean(-1, keepdims=True)) / x.std(-1, ddof=1, keepdims=True) / 2) for x in z)
    assert value("standardised_kl", given).item() == pytest.approx(4 * kl(p, q), rel=1e-9)
    moved = Signals(3 * given.teacher_logits_QV + 5, given.targets_Q, given.teacher_logits_QV)
    assert value("standardised_kl", moved).item() == pytest.approx(0, abs=1e-12)


def test_logit_mse_agrees_with_its_definition_and_with_kl_at_high_temperature(signals: Make, value: Value) -> None:
    given = signals()
    p, q = (x.detach().numpy() for x in (given.teacher_logits_QV, given.student_logits_QV))
    p, q = p - p.mean(-1, keepdims=True), q - q.mean(-1, keepdims=True)
    expected = float(((p - q) ** 2).mean())
    assert value("logit_mse", given).item() == pytest.approx(expected, rel=1e-9)
    assert value("forward_kl", given, temperature=1e3).item() == pytest.approx(expected / 2, rel=0.01)


def test_margin_mse_agrees_with_its_definition_and_knows_no_shift(signals: Make, value: Value) -> None:
    given = signals()
    p, q = (x.detach().numpy() for x in (given.teacher_logits_QV, given.student_logits_QV))
    own = given.targets_Q.numpy()[:, None]
    margins = [np.take_along_axis(x, own, 1) - x for x in (p, q)]
    expected = ((margins[0] - margins[1]) ** 2).sum() / (p.shape[0] * (p.shape[1] - 1))
    assert value("margin_mse", given).item() == pytest.approx(float(expected), rel=1e-9)
    moved = Signals(given.teacher_logits_QV + 5, given.targets_Q, given.teacher_logits_QV)
    assert value("margin_mse", moved).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_agrees_with_its_definition_with_and_without_smoothing(
    smoothing: float, signals: Make, value: Value
) -> None:
    given = signals()
    _, q = given_p_q(given, 1.0)
    true = np.log(q[np.arange(len(q)), given.targets_Q.numpy()])
    expected = -((1 - smoothing) * true + smoothing * np.log(q).mean(-1)).mean()
    assert value("cross_entropy", given, label_smoothing=smoothing).item() == pytest.approx(expected, rel=1e-9)


def test_output_entropy_agrees_with_its_definition_and_ends(signals: Make, value: Value) -> None:
    given = signals()
    _, q = given_p_q(given, 1.0)
    assert value("output_entropy", given).item() == pytest.approx(np.log(7) + (q * np.log(q)).sum(-1).mean(), rel=1e-9)
    flat, sure = torch.zeros(2, 7, dtype=torch.float64), torch.eye(7, dtype=torch.float64)[:2] * 1e4
    assert value("output_entropy", Signals(flat, given.targets_Q[:2])).item() == pytest.approx(0, abs=1e-12)
    assert value("output_entropy", Signals(sure, given.targets_Q[:2])).item() == pytest.approx(np.log(7))


def test_the_factor_t_squared_keeps_the_gradient_near_its_limit_at_high_temperature(
    signals: Make, value: Value
) -> None:
    # Hinton et al., eq. 4: for high T and centred logits the gradient tends to (student - teacher) / V, whatever T is.
    given = signals(scale=0.1)
    value("forward_kl", given, temperature=50.0).backward()
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (given.student_logits_QV, given.teacher_logits_QV)]
    assert given.student_logits_QV.grad is not None
    torch.testing.assert_close(
        given.student_logits_QV.grad, (centred[0] - centred[1]).detach() / 7 / 12, rtol=0.02, atol=1e-5
    )


def before(name: str, student: torch.Tensor, teacher: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The formulas as they were written when the shipped recipes were first measured."""
    if name == "forward_kl":
        q, p = F.log_softmax(student / 4.0, -1), F.log_softmax(teacher / 4.0, -1)
        return F.kl_div(q, p, log_target=True, reduction="batchmean") * 4.0**2
    if name == "cross_entropy":
        return F.cross_entropy(student, targets, label_smoothing=0.05)
    teacher_k, index = teacher.topk(3)
    student_k = student.gather(-1, index)
    inside = F.kl_div(
        F.log_softmax(student_k / 4.0, -1), F.log_softmax(teacher_k / 4.0, -1), log_target=True, reduction="batchmean"
    )
    masses = []
    for some, every in ((teacher_k, teacher), (student_k, student)):
        top = (some.logsumexp(-1) - every.logsumexp(-1)).clamp_max(-1e-7)
        masses.append(torch.stack([top, torch.log(-torch.expm1(top))], -1))
    return inside * 4.0**2 + F.kl_div(masses[1], masses[0], log_target=True, reduction="batchmean")


@pytest.mark.parametrize("name", ["forward_kl", "conditional_kl", "cross_entropy"])
def test_the_shipped_recipes_losses_have_the_bits_they_always_had(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(128, 77, generator=generator) * 4 for _ in range(2))
    params = {"likeliest": 3} if name == "conditional_kl" else {"label_smoothing": 0.05} if name[0] == "c" else {}
    pair = [student.clone().requires_grad_() for _ in range(2)]
    now = LOSSES[name].function(Signals(pair[0], teacher.argmax(-1), teacher), LOSSES[name].params.parse(params))
    then = before(name, pair[1], teacher, teacher.argmax(-1))
    now.backward()
    then.backward()
    assert torch.equal(now, then)
    assert torch.equal(pair[0].grad, pair[1].grad)
