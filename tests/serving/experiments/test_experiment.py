"""An experiment ramps up, stops what is worse, promotes what is not, and is not fooled by users who ask a lot."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from cluster.recipe import ExperimentSection, PromoteSection
from serving.experiments.events import Event, Measure
from serving.experiments.experiment import Decided, Experiment
from serving.experiments.split import Split, number, trials
from serving.seams.observe import CHAMPION, Arm

FAST = {"ramp": [0.1, 0.5], "step_units": 100, "step_s": 0.0, "guards": ["agreement"]}


class Service:
    """Simulated users whose answers agree with the teacher at a rate per arm; the split and the policy are the real."""

    def __init__(self, rates: dict[str, float], seed: int = 0, **knobs: Any) -> None:
        self.section = ExperimentSection(**FAST | knobs)
        self.experiment = Experiment(self.section, "try", "b", self.section.units, 0.0)
        self.rates, self.random, self.now, self.asked = rates, np.random.default_rng(seed), 0.0, 0
        self.decided: list[Decided] = []

    def arm_of(self, unit: str) -> str:
        arms = [Arm(CHAMPION, "m", "1", 1.0), Arm("b", "m", "2", self.experiment.share)]
        return Split(arms, "salt", trials({"try": self.section.units}, {"try": "b"})).choose(unit).arm

    def ask(self, unit: str, arm: str | None = None) -> Iterator[Event]:
        arm = arm or self.arm_of(unit)
        judged: Measure
        for judged, good in (("requests", 1.0), ("agreement", float(self.random.random() < self.rates[arm]))):
            yield Event("try", arm, number("salt", unit), judged, good, int(self.now * 1000))

    def second(self, requests: int = 100) -> None:
        units = [f"u{self.asked + number}" for number in range(requests)]
        self.asked += requests
        self.experiment.add([event for unit in units for event in self.ask(unit)])
        self.now += 1
        decided = self.experiment.decide(self.now)
        self.decided += [decided] if decided else []

    def run(self, seconds: int) -> list[tuple[str, str]]:
        for _ in range(seconds):
            self.second()
            if self.experiment.status in ("promoted", "rolled_back"):
                break
        return [(one.kind, one.decision) for one in self.decided]


def test_an_equal_challenger_climbs_the_ramp_and_is_promoted_with_its_numbers() -> None:
    service = Service({CHAMPION: 0.9, "b": 0.9})
    assert service.run(600) == [("canary", "none"), ("experiment", "promote")]
    step, promoted = service.decided
    assert (step.share, promoted.share) == (0.5, 0.0)
    agreement = promoted.detail["measures"]["agreement"]
    assert agreement["challenger"]["low"] < 0.9 < agreement["challenger"]["high"]
    assert agreement["log_e_not_worse"] >= np.log(20)
    json.dumps(promoted.detail, allow_nan=False)


def test_a_challenger_five_points_worse_is_rolled_back_and_stays_so() -> None:
    service = Service({CHAMPION: 0.9, "b": 0.85}, seed=3)
    assert service.run(600)[-1] == ("experiment", "rollback")
    assert service.experiment.share == 0.0
    service.rates["b"] = 1.0
    assert service.run(50)[-1] == ("experiment", "rollback")


def test_nobody_is_promoted_where_people_decide() -> None:
    service = Service({CHAMPION: 0.8, "b": 0.95}, promote="never")
    assert ("experiment", "promote") not in service.run(100)
    assert service.experiment.status == "full"


def test_a_better_challenger_is_promoted_as_better() -> None:
    assert Service({CHAMPION: 0.8, "b": 0.9}, promote="better").run(600)[-1] == ("experiment", "promote")


def test_a_ramp_waits_for_its_units_and_its_time() -> None:
    patient = Service({CHAMPION: 0.9, "b": 0.9}, step_s=30.0)
    patient.run(29)
    assert patient.experiment.step == 0
    patient.run(1)
    assert patient.experiment.step == 1
    careful = Service({CHAMPION: 0.9, "b": 0.9}, step_units=5000)
    careful.run(30)
    assert careful.experiment.step == 0


def test_a_split_that_is_not_as_asked_holds_the_ramp_and_promotes_nobody() -> None:
    service = Service({CHAMPION: 0.9, "b": 0.9})
    arm_of = service.arm_of
    service.arm_of = lambda unit: CHAMPION if number("lost", unit) % 3 == 0 else arm_of(unit)  # type: ignore[method-assign]
    decided = service.run(400)
    assert ("srm", "hold") in decided
    assert ("experiment", "promote") not in decided
    assert decided.count(("srm", "hold")) == 1


def test_users_who_ask_a_lot_are_one_unit_each() -> None:
    """Five of six hundred users make most of the traffic, and are wrong more often than others, whatever the arm."""
    rolled_back = {"unit": 0, "request": 0}
    for counted in rolled_back:
        for seed in range(10):
            service = Service({CHAMPION: 0.95, "b": 0.95}, seed, ramp=[0.5], promote="never", srm_alpha=1e-9)
            heavy = [f"heavy {seed} {number}" for number in range(5)]
            for second in range(30):
                asked = heavy * 12 + [f"light {seed} {second} {number}" for number in range(20)]
                for turn, unit in enumerate(asked):
                    service.rates = dict.fromkeys((CHAMPION, "b"), 0.6 if number("bad", unit) % 2 == 0 else 0.97)
                    name = unit if counted == "unit" else f"{unit} {second} {turn}"
                    events = list(service.ask(unit, service.arm_of(unit)))
                    unit_number = number("salt", name)
                    service.experiment.add([Event(*_with(event, unit_number)) for event in events])
                service.now += 1
                service.experiment.decide(service.now)
            rolled_back[counted] += service.experiment.status == "rolled_back"
    assert rolled_back["unit"] <= 1, rolled_back
    assert rolled_back["request"] >= 3, rolled_back  # what counting requests would have done


def _with(event: Event, unit: int) -> tuple[Any, ...]:
    return event.experiment, event.arm, unit, event.measure, event.good, event.at_ms


def test_an_experiment_goes_on_where_it_was_after_a_restart() -> None:
    service = Service({CHAMPION: 0.9, "b": 0.9})
    service.run(40)
    plain = json.loads(json.dumps(service.experiment.plain(service.now)))
    bits = {name: seen.bits() for name, seen in service.experiment.seen.items()}
    again = Experiment(service.section, "try", "b", 1.0, 0.0)
    again.restore(plain, bits, 1000.0)
    assert (again.share, again.step, again.routed) == (0.5, service.experiment.step, service.experiment.routed)
    assert again.numbers() == service.experiment.numbers()
    routed = list(again.routed)
    again.add([event for number in range(50) for event in service.ask(f"u{number}")])
    assert again.routed == routed  # those units were seen before the restart


def test_a_reward_between_0_and_1_keeps_its_mean_as_a_coin() -> None:
    events = [Event("try", "b", number("salt", str(one)), "reward", 0.3, 7) for one in range(5000)]
    assert sum(event.outcome for event in events) / 5000 == pytest.approx(0.3, abs=0.02)
    assert all(Event("t", "b", unit, "reward", 1.0, 1).outcome for unit in (0, 5, (1 << 64) - 1))
    assert not any(Event("t", "b", unit, "reward", 0.0, 1).outcome for unit in (0, 5, (1 << 64) - 1))


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"ramp": [0.5, 0.1]}, "rise"),
        ({"units": 0.3, "ramp": [0.5]}, "units"),
        ({"others": {"challenger-c": 0.2}}, "at most 1"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ExperimentSection(**knobs)


def test_further_arms_are_called_as_their_aliases_so_a_slip_is_seen_at_once() -> None:
    section = ExperimentSection(units=0.5, others={"challenger-tiny": 0.5})
    assert section.others == {"challenger-tiny": 0.5}
    for wrong in ("tiny", "champion", "challenger", "challenger-", "challenger-A b"):
        with pytest.raises(ValidationError, match="challenger-"):
            ExperimentSection(units=0.5, others={wrong: 0.5})
    assert PromoteSection(model_name="m", alias="challenger-tiny").alias == "challenger-tiny"
    for wrong in ("previous", "teacher", "challenger-"):
        with pytest.raises(ValidationError, match="alias"):
            PromoteSection(model_name="m", alias=wrong)
