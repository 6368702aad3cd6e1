"""Assignment is sticky, ramps move only what they must, and experiments do not mix."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.experiments.split import Chosen, Split, Trial, place, trials
from serving.fallback.tokens import Tokens
from serving.seams.observe import CHAMPION, Arm

UNITS = [f"unit {number}" for number in range(20_000)]
ALL = (Trial("one", "b", 0.0, 1.0),)


def arms(**weights: float) -> list[Arm]:
    rest = 1 - sum(weights.values())
    return [Arm(CHAMPION, "m", "1", rest), *(Arm(name, "m", "2", weight) for name, weight in weights.items())]


def share(split: Split, arm: str) -> float:
    return sum(split.choose(unit).arm == arm for unit in UNITS) / len(UNITS)


@given(st.text(), st.text(), st.floats(0, 1))
def test_a_unit_meets_the_same_arm_every_time_and_on_every_replica(salt: str, unit: str, weight: float) -> None:
    assert Split(arms(b=weight), salt, ALL).choose(unit) == Split(arms(b=weight), salt, ALL).choose(unit)


@given(st.text(), st.text())
def test_a_place_is_in_the_unit_interval(salt: str, unit: str) -> None:
    assert 0 <= place(salt, unit) < 1


@pytest.mark.parametrize("weight", [0.0, 0.01, 0.1, 0.5, 1.0])
def test_arms_get_their_share(weight: float) -> None:
    assert share(Split(arms(b=weight), "salt", ALL), "b") == pytest.approx(weight, abs=0.01)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=2).map(sorted), st.lists(st.text(), max_size=50))
def test_a_ramp_moves_only_units_to_the_challenger(shares: list[float], units: list[str]) -> None:
    before, after = (Split(arms(b=weight), "salt", ALL) for weight in shares)
    for unit in units:
        assert before.choose(unit).arm == CHAMPION or after.choose(unit).arm == "b"


def test_a_ramp_moves_exactly_the_difference() -> None:
    before, after = (Split(arms(b=weight), "salt", ALL) for weight in (0.1, 0.5))
    moved = sum(before.choose(unit) != after.choose(unit) for unit in UNITS)
    assert moved / len(UNITS) == pytest.approx(0.4, abs=0.01)


def test_two_experiments_own_different_units_and_a_ramp_of_one_leaves_the_other_alone() -> None:
    both = trials({"one": 0.3, "two": 0.5}, {"one": "b", "two": "c"})
    before, after = Split(arms(b=0.1, c=0.1), "salt", both), Split(arms(b=0.3, c=0.1), "salt", both)
    owned = {name: {unit for unit in UNITS if before.choose(unit).experiment == name} for name in ("one", "two")}
    assert not owned["one"] & owned["two"]
    assert len(owned["two"]) / len(UNITS) == pytest.approx(0.5, abs=0.01)
    assert {before.choose(unit) for unit in owned["one"]} == {Chosen(CHAMPION, "one"), Chosen("b", "one")}
    assert all(after.choose(unit) == before.choose(unit) for unit in UNITS if unit not in owned["one"])


def test_who_gets_the_challenger_in_one_service_says_nothing_of_another() -> None:
    one, two = Split(arms(b=0.5), "salt", ALL), Split(arms(b=0.5), "other salt", ALL)
    both = sum(one.choose(unit).arm == two.choose(unit).arm == "b" for unit in UNITS)
    assert both / len(UNITS) == pytest.approx(0.25, abs=0.015)


def test_the_place_of_a_unit_says_nothing_of_its_arm_within_the_experiment() -> None:
    split = Split(arms(b=0.25), "salt", trials({"one": 0.5}, {"one": "b"}))
    low = [unit for unit in UNITS if place("salt", unit) < 0.25]
    assert sum(split.choose(unit).arm == "b" for unit in low) / len(low) == pytest.approx(0.5, abs=0.03)


def test_an_arm_that_nobody_serves_or_that_no_trial_names_answers_nobody() -> None:
    assert share(Split(arms(), "salt", ALL), CHAMPION) == 1
    assert share(Split(arms(b=0.5), "salt", ()), CHAMPION) == 1


def test_the_shares_of_an_experiment_are_those_of_its_own_units() -> None:
    split = Split(arms(b=0.1), "salt", trials({"one": 0.2}, {"one": "b"}))
    assert split.shares("one") == pytest.approx({CHAMPION: 0.5, "b": 0.5})


def test_more_units_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 1"):
        trials({"one": 0.7, "two": 0.5}, {"one": "b", "two": "c"})


def test_a_budget_gives_its_share_and_never_more_than_its_burst_at_once() -> None:
    budget, taken = Tokens(0.1, 3), 0
    for _ in range(1000):
        budget.pour()
        taken += budget.take()
    assert taken == pytest.approx(100, abs=4)
    fresh = Tokens(0.1, 3)
    assert [fresh.take() for _ in range(5)] == [True, True, True, False, False]
    assert not Tokens(0.0, 3).take()
