"""Every loss of the table keeps the promises that make a weight of 0.7 mean something."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import RecipeError
from cluster.recipe import Term, load
from cluster.recipe.training import LossTerm
from jobs.training import losses
from jobs.training.losses import LOSSES, Signals

Make, Value, Gradients = Callable[..., Signals], Callable[..., torch.Tensor], Callable[..., list[torch.Tensor]]
FED = sorted(name for name, loss in LOSSES.items() if "teacher_sparse" not in loss.needs)
NO_DISTANCE = {
    "cross_entropy",
    "contrastive",
    "masked_tokens",
    "output_entropy",
}  # not zero for a student that equals its teacher
ROTATED = {"forward_kl", "reverse_kl", "jensen_shannon", "skew_kl", "skew_reverse_kl", "decoupled_kd"}


@pytest.mark.parametrize("name", sorted(set(FED) - NO_DISTANCE))
def test_a_student_that_equals_its_teacher_has_no_loss_and_no_gradient(
    name: str, signals: Make, value: Value, gradients: Gradients
) -> None:
    given, params = signals(alike=True), {"likeliest": 3} if name == "conditional_kl" else {}
    assert value(name, given, **params).item() == pytest.approx(0, abs=1e-12)
    for gradient in gradients(name, given, **params):
        assert gradient.abs().max().item() < 1e-9


@pytest.mark.parametrize("name", FED)
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_losses_and_gradients_stay_finite_and_not_negative_at_extremes(
    name: str, scale: float, dtype: torch.dtype, signals: Make, value: Value, gradients: Gradients
) -> None:
    given = signals(scale=scale, dtype=dtype)
    loss = value(name, given)
    assert torch.isfinite(loss) and loss.item() >= (0 if dtype == torch.float64 else -1e-6)
    found = gradients(name, given)
    assert found and all(torch.isfinite(gradient).all() for gradient in found)


@pytest.mark.parametrize("name", FED)
def test_a_constant_student_has_a_finite_gradient(name: str, signals: Make, gradients: Gradients) -> None:
    given = signals()
    for tensor in (given.student_logits_QV, given.student_hidden_QH, given.student_features_QW):
        assert tensor is not None
        tensor.data.zero_()
    assert all(torch.isfinite(gradient).all() for gradient in gradients(name, given))


@pytest.mark.parametrize("name", sorted(name for name in FED if LOSSES[name].focused))
def test_positions_of_weight_zero_count_nowhere_and_equal_weights_change_nothing(
    name: str, signals: Make, value: Value, gradients: Gradients
) -> None:
    given = signals()
    few = Signals(given.student_logits_QV[:5], given.targets_Q[:5], given.teacher_logits_QV[:5])
    given.student_logits_QV.data[5:] = torch.nan  # even this must not leak
    weights = torch.cat([torch.full((5,), 3.0), torch.zeros(7)])
    masked = replace(given, weights_Q=weights)
    assert value(name, masked).item() == pytest.approx(value(name, few).item(), rel=1e-12)
    (gradient,) = gradients(name, masked)
    assert gradient[5:].abs().max() == 0 and torch.isfinite(gradient).all() and gradient[:5].abs().max() > 0
    nothing = replace(given, weights_Q=torch.zeros(12))
    assert value(name, nothing).item() == 0 and gradients(name, nothing)[0].abs().max() == 0


@pytest.mark.parametrize("name", sorted(name for name in FED if LOSSES[name].focused))
def test_weights_make_a_weighted_mean_of_single_positions(name: str, signals: Make, value: Value) -> None:
    given, weights = signals(), torch.arange(12.0)
    single = torch.stack([
        value(name, Signals(given.student_logits_QV[i : i + 1], given.targets_Q[i : i + 1],
                            given.teacher_logits_QV[i : i + 1])) for i in range(12)
    ])  # fmt: skip
    expected = (weights * single).sum() / weights.sum()
    assert value(name, replace(given, weights_Q=weights)).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", sorted({*ROTATED, "standardised_kl", "conditional_kl", "total_variation"}))
def test_temperature_is_the_softmax_divisor_and_its_factor_keeps_the_gradients_size(
    name: str, signals: Make, value: Value
) -> None:
    given, t = signals(), 3.0
    params: dict[str, Any] = {"likeliest": 7} if name == "conditional_kl" else {}
    divided = replace(
        given, student_logits_QV=given.student_logits_QV / t, teacher_logits_QV=given.teacher_logits_QV / t
    )
    factor = t if name == "total_variation" else t**2
    if name != "standardised_kl":  # it takes the scale out first
        expected = factor * value(name, divided, temperature=1.0, **params).item()
        assert value(name, given, temperature=t, **params).item() == pytest.approx(expected, rel=1e-9)
    high, higher = (value(name, given, temperature=at, **params).item() for at in (200.0, 400.0))
    assert high > 0 and higher == pytest.approx(high, rel=0.02)


def test_every_loss_says_what_it_reads_and_every_file_of_a_loss_is_listed() -> None:
    fields = set(Signals.__dataclass_fields__)
    assert all(set(loss.needs) <= fields for loss in LOSSES.values())
    files = {path.stem for path in Path(losses.__file__).parent.glob("*.py")} - {"__init__", "sparse_labels"}
    assert files == set(LOSSES)


def test_an_unknown_loss_or_parameter_is_refused_by_name() -> None:
    with pytest.raises(RecipeError, match="forward_kl"):
        losses.check([Term(name="forwrd_kl")], "distill.stages.0.losses")
    with pytest.raises(RecipeError, match=r"distill.stages.0.losses.0.params.temprature"):
        losses.check([Term(name="forward_kl", params={"temprature": 4.0})], "distill.stages.0.losses")


def term(**fields: object) -> LossTerm:
    return LossTerm.parse({"name": "forward_kl", **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"params": {"temperature": {"kind": "linear", "from": 4, "to": 0}}}, r"0\.params\.temperature"),
        ({"params": {"temperature": {"kind": "linear", "from": 4}}}, r"0\.params\.temperature"),
        ({"weight": {"kind": "constant", "from": 0}}, "no loss has a weight above 0"),
        ({"focus": [{"name": "nosuch"}]}, "unknown rule"),
        ({"focus": [{"name": "student_entropy", "params": {"share": 2.0}}]}, r"0\.focus\.0\.params\.share"),
        ({"name": "hidden_mse", "focus": [{"name": "difficult"}]}, "takes every position alike"),
    ],
)
def test_changes_and_rules_that_cannot_work_are_refused_at_the_start(fields: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        losses.check([term(**fields)], "distill.stages.0.losses")


def test_a_loss_whose_signals_a_stage_will_not_have_is_refused_with_the_reason() -> None:
    recipe = load("digits", ["generate.hidden_layer=null", "fit.engine.zero_stage=3"])
    plain, adapted = recipe.distill.stages[0], recipe.distill.stages[1]
    missing = losses.absent(recipe, "distill", adapted)
    with pytest.raises(RecipeError, match=r"generate\.hidden_layer is null"):
        losses.check(adapted.losses, "distill.stages.1.losses", missing)
    losses.check(plain.losses, "distill.stages.0.losses", losses.absent(recipe, "distill", plain))
    fit = losses.absent(recipe, "fit", recipe.fit.stages[0])
    for name, why in (("forward_kl", "no teacher"), ("hidden_gram", "no teacher"), ("initial_weights", "zero_stage 3")):
        with pytest.raises(RecipeError, match=why):
            losses.check([term(name=name)], "fit.stages.0.losses", fit)
    balanced = term(focus=[{"name": "class_balanced"}])
    with pytest.raises(RecipeError, match="visual_qa has no single class"):
        losses.check([balanced], "distill.stages.0.losses", losses.absent(recipe, "distill", plain))
    whole = load("digits")
    for stage in whole.distill.stages:
        losses.check(stage.losses, "distill", losses.absent(whole, "distill", stage))
