"""Numbers that change over a stage: exact at both ends, between them on the way, refused where they make no sense."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import RecipeError
from cluster.recipe import Stage
from cluster.recipe.training import LossTerm, Ramp
from jobs.training.engine import schedule_at
from jobs.training.schedules import params_at, ramp_at
from jobs.training.terms import terms_at

KINDS = ["linear", "exponential", "cosine"]


@given(st.sampled_from(KINDS), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.integers(2, 300))
def test_a_change_is_exact_at_its_ends_and_never_turns_back(kind: str, start: float, end: float, steps: int) -> None:
    ramp = Ramp.parse({"kind": kind, "from": start, "to": end})
    values = [ramp_at(ramp, step, steps) for step in range(steps)]
    assert values[0] == start and values[-1] == end
    assert values == sorted(values, reverse=start > end) or max(abs(start - end) / start, 0) < 1e-9
    assert all(min(start, end) * (1 - 1e-12) <= value <= max(start, end) * (1 + 1e-12) for value in values)


@pytest.mark.parametrize(
    ("kind", "middle"), [("linear", 2.5), ("exponential", 2.0), ("cosine", 2.5), ("constant", 4.0)]
)
def test_half_way_a_change_has_the_mean_that_its_kind_promises(kind: str, middle: float) -> None:
    ramp = Ramp.parse({"kind": kind, "from": 4.0} | ({} if kind == "constant" else {"to": 1.0}))
    assert ramp_at(ramp, 50, 101) == pytest.approx(middle)
    assert ramp_at(ramp, 0, 1) == 4.0  # a stage of one step


def test_ends_are_also_known_by_the_names_of_a_dumped_recipe() -> None:
    ramp = Ramp.parse({"kind": "linear", "from": 0.7, "to": 0.4})
    assert Ramp.parse(ramp.model_dump()) == ramp
    term = LossTerm.parse({"name": "forward_kl", "weight": {"kind": "linear", "from": 0.7, "to": 0.4}})
    assert LossTerm.parse(term.model_dump(mode="json")) == term


@pytest.mark.parametrize(
    "weight",
    [
        {"kind": "linear", "from": 0.7},
        {"kind": "constant", "from": 0.7, "to": 0.4},
        {"kind": "exponential", "from": 0.7, "to": 0.0},
        {"kind": "linear", "from": 0.7, "to": -0.1},
        {"kind": "liner", "from": 0.7, "to": 0.1},
        {"kind": "linear", "from": 0.7, "to": 0.1, "over": 3},
        -0.5,
    ],
)
def test_a_change_that_makes_no_sense_is_refused(weight: object) -> None:
    with pytest.raises(RecipeError):
        LossTerm.parse({"name": "forward_kl", "weight": weight}, at="distill.stages.0.losses.0")


def test_early_distillation_and_a_late_task_are_two_weights_that_cross() -> None:
    terms = [
        LossTerm.parse({"name": "forward_kl", "weight": {"kind": "linear", "from": 0.7, "to": 0.4},
                        "params": {"temperature": {"kind": "cosine", "from": 4, "to": 1}}}),
        LossTerm.parse({"name": "cross_entropy", "weight": {"kind": "linear", "from": 0.3, "to": 0.6}}),
    ]  # fmt: skip
    first, last = terms_at(terms, 0, 10), terms_at(terms, 9, 10)
    assert [term.weight for term in first] == [0.7, 0.3] and [term.weight for term in last] == [0.4, 0.6]
    assert first[0].params.model_dump() == {"temperature": 4.0} and last[0].params.model_dump() == {"temperature": 1.0}
    assert params_at({"temperature": 2.0}, 3, 10) == {"temperature": 2.0}


def test_the_rate_falls_by_its_factor_every_three_epochs() -> None:
    values = {"name": "s", "epochs": 9, "learning_rate": 1e-3, "losses": [{"name": "cross_entropy"}],
              "schedule": "step", "warmup_share": 0.0}  # fmt: skip
    rates = [schedule_at(Stage.parse(values), step, 900) for step in range(900)]
    assert rates[:300] == [1e-3] * 300
    assert rates[300:600] == pytest.approx([0.9e-3] * 300) and rates[600:] == pytest.approx([0.81e-3] * 300)
