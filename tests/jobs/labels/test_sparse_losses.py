"""What the student is told by a few tokens: in the mean over draws the gradient of the whole vocabulary."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from cluster import schema
from cluster.errors import MismatchError
from cluster.recipe.labels import LabelsSection
from jobs.tasks import soft_labels
from jobs.training import positions
from jobs.training.losses import LOSSES, Signals
from jobs.training.losses.sparse_labels import SparseLabels
from serving.teachers import Reply

Q, V = 4, 120
TEACHER = np.random.default_rng(0).normal(0, 2.5, (Q, V)).astype(np.float32)


def labels(seed: int = 0, **changes: Any) -> SparseLabels:
    reply = Reply("x", 0.5, np.arange(Q), TEACHER)
    row = soft_labels.record(f"{seed:016x}", reply, False, LabelsSection.parse(changes))
    return soft_labels.sparse(schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels"))


def student() -> torch.Tensor:
    return torch.randn(Q, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)


def value(name: str, logits: torch.Tensor, sparse: SparseLabels | None, **params: Any) -> torch.Tensor:
    dense = torch.from_numpy(TEACHER).double() if sparse is None else None
    given = Signals(logits, logits.argmax(-1), dense, teacher_sparse=sparse)
    return LOSSES[name].function(given, LOSSES[name].params.parse(params))


def gradient(name: str, sparse: SparseLabels | None, **params: Any) -> torch.Tensor:
    logits = student()
    (found,) = torch.autograd.grad(value(name, logits, sparse, **params), logits)
    return found


@pytest.mark.parametrize("form", ["sampled", "top_k_sampled"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("scheme", ["systematic", "independent"])
def test_the_mean_gradient_over_draws_is_that_of_the_whole_vocabulary(
    form: str, temperature: float, scheme: str
) -> None:
    full = gradient("forward_kl", None, temperature=temperature)
    found = torch.stack([
        gradient("sampled_cross_entropy",
                 labels(seed, form=form, temperature=temperature, likeliest=8, draws=32, scheme=scheme),
                 temperature=temperature)
        for seed in range(60)
    ])  # fmt: skip
    deviation = (found - full).pow(2).sum((1, 2)).mean().sqrt()
    # An unbiased mean of n draws is deviation / sqrt(n) away; three times that is one in thousands.
    assert (found.mean(0) - full).norm() <= 3 * deviation / 60**0.5


@pytest.mark.parametrize("form", ["sampled", "top_k_sampled"])
def test_near_the_teacher_the_control_variate_takes_the_noise_away(form: str) -> None:
    dense = torch.from_numpy(TEACHER).double()
    near = dense + 0.1 * torch.randn(Q, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def noise(control: bool) -> float:
        found = []
        for seed in range(30):
            logits = near.clone().requires_grad_()
            own = labels(seed, form=form, likeliest=8, draws=32)
            (one,) = torch.autograd.grad(value("sampled_cross_entropy", logits, own, control=control), logits)
            found.append(one)
        return float(torch.stack(found).std(0).norm())

    assert noise(True) < 0.4 * noise(False)
    own = labels(form=form, likeliest=8, draws=32)
    both = [float(value("sampled_cross_entropy", near, own, control=one)) for one in (True, False)]
    assert both[0] == both[1]


def test_draws_at_one_temperature_are_unbiased_at_another_by_their_importance() -> None:
    full = gradient("forward_kl", None, temperature=1.0)
    found = torch.stack([
        gradient("sampled_cross_entropy", labels(seed, form="sampled", temperature=2.0), temperature=1.0)
        for seed in range(80)
    ])  # fmt: skip
    deviation = (found - full).pow(2).sum((1, 2)).mean().sqrt()
    assert (found.mean(0) - full).norm() <= 3 * deviation / 80**0.5


def test_a_truncated_list_stays_biased_however_often_it_is_read() -> None:
    full = gradient("forward_kl", None, temperature=4.0)
    found = gradient("sampled_cross_entropy", labels(form="top_k", temperature=4.0, likeliest=8), temperature=4.0)
    assert (found - full).norm() > 0.3 * full.norm()


def test_normalised_weights_sum_to_one_and_work_at_any_temperature() -> None:
    own = labels(form="sampled", temperature=2.0)
    torch.testing.assert_close(own.weights(3.0, normalised=True).sum(-1), torch.ones(Q))
    with pytest.raises(MismatchError, match="T=3"):
        own.weights(3.0, normalised=False)
    assert torch.isfinite(value("sampled_cross_entropy", student(), own, temperature=3.0, normalised=True))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_top_k_tail_over_the_whole_vocabulary_is_forward_kl(temperature: float) -> None:
    own = labels(form="top_k", likeliest=V, temperature=temperature)
    whole = value("forward_kl", student(), None, temperature=temperature)
    torch.testing.assert_close(
        value("top_k_tail", student(), own, temperature=temperature), whole, rtol=5e-3, atol=1e-4
    )


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_student_that_equals_its_teacher_has_no_top_k_tail_loss(temperature: float) -> None:
    own = labels(form="top_k", likeliest=8, temperature=temperature)
    loss = value("top_k_tail", torch.from_numpy(TEACHER).double(), own, temperature=temperature)
    assert loss.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("name", ["sampled_cross_entropy", "top_k_tail"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_sparse_losses_stay_finite_and_not_negative_at_extremes(name: str, scale: float) -> None:
    form = "sampled" if name == "sampled_cross_entropy" else "top_k"
    logits = student().detach().mul(scale).requires_grad_()
    loss = value(name, logits, labels(form=form))
    loss.backward()
    assert torch.isfinite(loss) and loss.item() >= 0
    assert logits.grad is not None and torch.isfinite(logits.grad).all()


def test_dense_labels_and_mixed_kinds_are_refused_by_name() -> None:
    with pytest.raises(MismatchError, match="dense"):
        labels(form="dense")
    reply = Reply("x", 0.5, np.arange(Q), TEACHER)
    rows = [soft_labels.record(f"{n:016x}", reply, False, LabelsSection(form="sampled", draws=8 + n)) for n in (0, 1)]
    table = schema.conform(pa.Table.from_pylist(rows, schema.schema("soft_labels")), "soft_labels")
    with pytest.raises(MismatchError, match="draws"):
        soft_labels.sparse(table)
    with pytest.raises(MismatchError, match="draws"):
        soft_labels.soft_columns(table, Q)


def test_margins_of_sampled_labels_are_near_those_of_dense_ones() -> None:
    reply = Reply("x", 0.5, np.arange(Q), TEACHER)
    found = []
    for form in ("dense", "top_k"):
        row = soft_labels.record("0" * 16, reply, False, LabelsSection(form=form))  # type: ignore[arg-type]
        table = schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels")
        found.append(soft_labels.margins(table)[0])
    assert found[0] == pytest.approx(found[1], abs=2e-3)


@pytest.mark.parametrize(("name", "form"), [("sampled_cross_entropy", "sampled"), ("top_k_tail", "top_k")])
def test_position_by_position_the_gradient_is_that_of_all_at_once(
    name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradient(name, labels(form=form, likeliest=8))
    monkeypatch.setattr(positions, "CHUNK", V)
    torch.testing.assert_close(gradient(name, labels(form=form, likeliest=8)), whole, rtol=1e-6, atol=1e-12)
