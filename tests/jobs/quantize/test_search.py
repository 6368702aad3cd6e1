"""The walk through schemes and layers: in order, cheapest first, float32 where nothing else holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.recipe import Gates
from jobs.quantize import ENGINES, in_order, search
from jobs.quantize.exam import Taken
from jobs.quantize.plan import Plan

PLANS = [Plan("fast"), Plan("exact", 64), Plan("exact", 32)]
COSTS = {"model:a": 0.1, "model:b": 0.4, "model:c": 0.2, "model:d": 0.05, "model:e": 0.01}


def point(plan: Plan, agreement: float, holds: bool) -> search.Point:
    broke = () if holds else ("int8_agreement_min",)
    return search.Point(plan.name, plan.scheme, 10, 0.9, 0.0, agreement, 0.01, broke)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=3, max_size=3), st.integers(0, 9))
def test_the_first_plan_that_holds_is_taken_and_nothing_is_tried_after_it(
    outcomes: list[tuple[float, bool]], repaired: int
) -> None:
    tried: list[Plan] = []

    def judge(plan: Plan) -> search.Point:
        tried.append(plan)
        if plan.scheme == "float32":
            return point(plan, 1.0, True)
        if plan.exclude:
            return point(plan, 0.9, len(plan.exclude) >= repaired)
        agreement, holds = outcomes[PLANS.index(plan)]
        return point(plan, agreement, holds)

    found = search.walk(PLANS, judge, lambda plan: COSTS)
    assert [one.name for one in found.curve] == [plan.name for plan in tried]
    assert found.plan == tried[-1]
    assert all(one.broke for one in found.curve[:-1])
    assert not found.curve[-1].broke
    holding = [plan for plan, (_, holds) in zip(PLANS, outcomes, strict=True) if holds]
    if holding:
        assert found.plan == holding[0]
        return
    left_out = [plan for plan in tried if plan.exclude]
    assert [len(plan.exclude) for plan in left_out] == [1, 2, 4][: len(left_out)]
    assert len(left_out) == 3 or len(left_out[-1].exclude) >= repaired
    assert left_out[0].exclude == ("model:b",)  # the one that costs most
    best = max(range(3), key=lambda number: outcomes[number][0])
    assert left_out[0].scheme == PLANS[best].scheme
    assert found.plan.scheme == "float32" or found.plan.exclude


def test_a_student_is_judged_by_the_gates_own_numbers() -> None:
    plain = Taken(0.8, ["a", "b", "c", "d"], [np.array([[1.0, 0.0]])] * 4)
    own = Taken(0.76, ["a", "b", "c", "x"], [np.array([[0.9, 0.0]])] * 4)
    found = search.judged(Plan("exact", 64), 7, own, plain, Gates(logit_error_max=0.2))
    assert (found.name, found.bytes, found.agreement) == ("exact/64", 7, 0.75)
    assert found.drop == pytest.approx(0.05)
    assert found.logit_error == pytest.approx(0.1)
    assert found.broke == ("int8_drop_max", "int8_agreement_min")
    off = Gates(int8_drop_max=None, int8_agreement_min=None, logit_error_max=0.05)
    assert search.judged(Plan("fast"), 7, own, plain, off).broke == ("logit_error_max",)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("task", ["text_classification", "image_classification"])
def test_auto_tries_only_what_the_engine_has_and_never_float32_first(engine: str, task: str) -> None:
    plans = in_order(engine, task, 32)
    assert plans
    assert {plan.scheme for plan in plans} < set(ENGINES[engine])
    assert "float32" not in [plan.scheme for plan in plans]


def test_a_plan_names_the_layers_that_stay_float() -> None:
    layers = ["/a/MatMul", "/b/Gemm", "/c/MatMul"]
    assert Plan("fast").kept_float("model", layers) == []
    assert Plan("fast", exclude=("model:/b/Gemm", "other:/a/MatMul")).kept_float("model", layers) == [
        "/b/Gemm",
        "/b/Gemm_MatMul",
    ]
    assert Plan("fast", only=("model:/b/Gemm",)).kept_float("model", layers)[:2] == ["/a/MatMul", "/c/MatMul"]
    told: Mapping[str, object] = {"name": Plan("exact", 64).but(["model:/b/Gemm"]).name}
    assert told["name"] == "exact/64 but 1 layers"
