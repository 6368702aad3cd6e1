"""Every loss of the table keeps the promises that make a weight of 0.7 mean something."""

import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Term
from jobs.training import losses
from jobs.training.losses import LOSSES, Signals

Q, V, H = 12, 7, 5


def signals(seed: int = 0, scale: float = 1.0, alike: bool = False) -> Signals:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64) * scale

    teacher, hidden = draw(Q, V), draw(Q, H)
    student = teacher.clone() if alike else draw(Q, V)
    features = hidden.clone() if alike else draw(Q, H)
    return Signals(student.requires_grad_(), teacher.argmax(-1), teacher, features.requires_grad_(), hidden)


def value(name: str, given: Signals, **params: object) -> torch.Tensor:
    return LOSSES[name].function(given, LOSSES[name].params.parse(params))


@pytest.mark.parametrize("name", ["forward_kl", "conditional_kl", "hidden_mse"])
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(name: str) -> None:
    given = signals(alike=True)
    loss = value(name, given, **({"likeliest": 3} if name == "conditional_kl" else {}))
    loss.backward()
    touched = given.student_hidden_QH if name == "hidden_mse" else given.student_logits_QV
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert touched is not None and touched.grad is not None and touched.grad.abs().max().item() < 1e-9


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_losses_stay_finite_and_not_negative_at_extremes(name: str, scale: float) -> None:
    loss = value(name, signals(scale=scale))
    assert torch.isfinite(loss) and loss.item() >= 0


def test_forward_kl_agrees_with_its_definition() -> None:
    given = signals()
    p, q = (torch.softmax(logits / 4, -1) for logits in (given.teacher_logits_QV, given.student_logits_QV))
    by_hand = 16 * (p * (p.log() - q.log())).sum(-1).mean()
    assert value("forward_kl", given, temperature=4.0).item() == pytest.approx(by_hand.item(), rel=1e-10)


def test_conditional_kl_over_the_whole_vocabulary_is_forward_kl() -> None:
    given = signals()
    whole = value("conditional_kl", given, likeliest=V, temperature=4.0)
    assert whole.item() == pytest.approx(value("forward_kl", given, temperature=4.0).item(), rel=1e-12)


def test_conditional_kl_agrees_with_its_definition() -> None:
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


def test_the_factor_t_squared_keeps_the_gradient_near_its_limit_at_high_temperature() -> None:
    # Hinton et al., eq. 4: for high T and centred logits the gradient tends to (student - teacher) / V, whatever T is.
    given = signals(scale=0.1)
    value("forward_kl", given, temperature=50.0).backward()
    centred = [logits - logits.mean(-1, keepdim=True) for logits in (given.student_logits_QV, given.teacher_logits_QV)]
    assert given.student_logits_QV.grad is not None
    torch.testing.assert_close(
        given.student_logits_QV.grad, (centred[0] - centred[1]).detach() / V / Q, rtol=0.02, atol=1e-5
    )


def test_hidden_mse_of_the_mean_prediction_is_one_for_any_teacher_scale() -> None:
    for scale in (0.01, 100.0):
        given = signals(scale=scale)
        assert given.teacher_hidden_QH is not None
        mean = given.teacher_hidden_QH.mean(0).expand(Q, H)
        flat = Signals(given.student_logits_QV, given.targets_Q, given.teacher_logits_QV, mean, given.teacher_hidden_QH)
        assert value("hidden_mse", flat).item() == pytest.approx(1.0)


def test_an_unknown_loss_or_parameter_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="forward_kl"):
        losses.check([Term(name="forwrd_kl")], "distill.stages.0.losses")
    with pytest.raises(RecipeError, match=r"distill.stages.0.losses.0.params.temprature"):
        losses.check([Term(name="forward_kl", params={"temprature": 4.0})], "distill.stages.0.losses")
