"""Money: hand-computed prices of a thousand answers and the volume that pays for the student."""

import pytest
from pydantic import ValidationError

from cluster.recipe.measures import PricesSection
from jobs.measure import money


def test_a_thousand_answers_cost_what_their_machine_costs_while_they_are_made() -> None:
    prices = PricesSection(machine_hour=3.6, machine_cpus=2, training_hour=1.0)
    told = money.measure(prices, {"teacher": 0.4, "student": 0.01}, hours=2.0, labelled=500, deferral_share=0.1)
    # 3.6 an hour is .001 a second, .0005 for each of its two CPUs.
    assert told["per_1000"] == pytest.approx({"teacher": 0.2, "student": 0.005, "student_with_deferrals": 0.025})
    assert told["distillation"] == {"hours": 2.0, "labelled": 500, "cost": 2.0}
    assert told["break_even_requests"] == pytest.approx(2.0 / (0.0002 - 0.000025), abs=1)


def test_a_teacher_that_is_paid_by_the_token_is_paid_for_labelling_too() -> None:
    prices = PricesSection(machine_hour=0.36, teacher_tokens_m=10.0, tokens_per_request=100.0)
    told = money.measure(prices, {"teacher": None, "student": 0.01}, hours=0.0, labelled=1000, deferral_share=0.0)
    assert told["per_1000"]["teacher"] == pytest.approx(1.0) and told["distillation"]["cost"] == pytest.approx(1.0)
    assert told["break_even_requests"] == 1002  # 1 / (.001 - .000001)


def test_a_student_that_defers_everything_never_pays() -> None:
    prices = PricesSection(machine_hour=1.0)
    told = money.measure(prices, {"teacher": 0.1, "student": 0.01}, hours=1.0, labelled=0, deferral_share=1.0)
    assert told["break_even_requests"] is None


def test_an_unknown_teacher_has_no_price() -> None:
    told = money.measure(PricesSection(machine_hour=1.0), {"teacher": None, "student": 0.1}, 1.0, 0, 0.5)
    assert told["per_1000"]["teacher"] is None and told["per_1000"]["student_with_deferrals"] is None


def test_a_price_by_tokens_needs_their_number() -> None:
    with pytest.raises(ValidationError, match="tokens_per_request"):
        PricesSection(machine_hour=1.0, teacher_tokens_m=1.0)
