"""From requests to decisions: what gateways see becomes evidence, evidence becomes acts, and all of it is on record."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from cluster.errors import RaydistillError
from cluster.store import Store
from serving.experiments.events import Batch
from serving.monitoring.monitor import Monitor
from serving.seams.observe import CHAMPION, Feedback
from serving.traffic import log as traffic
from serving.traffic import verdicts

Live = Callable[..., Any]


def said(store: Store) -> list[tuple[str, str, str]]:
    return [(one.kind, one.decision, one.metric) for one in verdicts.read(store, "m")]


def test_a_worse_challenger_is_rolled_back_over_two_gateways_with_a_verdict(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.until(lambda: world.served["challenger"].weight == 0.5, 3)
        await world.until(lambda: world.monitor.judge.experiments["challenger"].status == "rolled_back")
        assert world.calls[-1] == ("split", {"challenger": 0.0})
        await world.second()
        assert all(gateway.choose(f"u{one}") == CHAMPION for gateway in world.gateways for one in range(100))

    live(scenario, {CHAMPION: 0.95, "challenger": 0.7}, gateways=2)
    (verdict,) = [one for one in verdicts.read(store, "m") if one.kind == "experiment"]
    assert (verdict.decision, verdict.metric, verdict.version) == ("rollback", "agreement", "2")
    assert verdict.drop is not None
    assert verdict.drop > 0.05
    assert verdict.detail["measures"]["agreement"]["log_e_worse"] > 0
    assert verdict.rows > 50


def test_a_challenger_that_is_not_worse_is_promoted_and_judged_anew_as_champion(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.until(lambda: ("promote", {"arm": "challenger"}) in world.calls)
        await world.second()
        assert world.monitor.judge.experiments == {}
        state = await world.monitor.state()
        assert [arm["version"] for arm in state["arms"]] == ["2"]
        assert state["arms"][0]["requests"] == 40

    live(scenario, {CHAMPION: 0.9, "challenger": 0.99}, margin=0.05)
    assert ("experiment", "promote", "agreement") in said(store)


def test_of_several_challengers_the_one_that_won_is_promoted_and_the_others_begin_anew(
    live: Live, store: Store
) -> None:
    async def scenario(world: Any) -> None:
        await world.until(lambda: any(action == "promote" for action, _ in world.calls))
        assert world.calls[-1] == ("promote", {"arm": "challenger-b"})
        await world.second()
        assert {name: arm.version for name, arm in world.served.items()} == {CHAMPION: "3", "challenger": "2"}
        assert list(world.monitor.judge.experiments) == ["challenger"]
        assert world.monitor.judge.experiments["challenger"].measures["agreement"].judged <= 40
        assert world.calls[-1] == ("split", {"challenger": 0.25})

    knobs = {"units": 0.5, "others": {"challenger-b": 0.5}, "ramp": [0.25], "promote": "better"}
    live(scenario, {CHAMPION: 0.92, "challenger": 0.92, "challenger-b": 1.0}, **knobs)
    (verdict,) = [one for one in verdicts.read(store, "m") if one.decision == "promote"]
    assert (verdict.version, verdict.experiment) == ("3", "challenger-b")


def test_while_a_promotion_is_under_way_no_other_arm_is_promoted_over_it(live: Live) -> None:
    async def scenario(world: Any) -> None:
        ordered: list[str] = []

        async def slow(arm: str, version: str) -> None:
            ordered.append(arm)

        async def refused(arm: str, version: str) -> None:
            ordered.append(arm)
            raise RaydistillError("not fit")

        world.promote = slow
        await world.until(lambda: bool(ordered))
        for _ in range(10):  # gateways still tell of the old champion, and the other arm is as good
            await world.second()
        assert len(ordered) == 1
        world.promote, world.monitor.judge.crowning = refused, False
        await world.until(lambda: len(ordered) == 2)  # the one before was refused, or is over otherwise
        assert sorted(ordered) == ["challenger", "challenger-b"]
        assert not world.monitor.judge.crowning

    knobs = {"units": 0.5, "others": {"challenger-b": 0.5}, "ramp": [0.25], "margin": 0.05}
    live(scenario, {CHAMPION: 0.95, "challenger": 1.0, "challenger-b": 1.0}, **knobs)


def test_a_fall_of_agreement_rolls_back_and_asks_for_new_data_once(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.second(120)
        assert world.calls == []
        world.rates[CHAMPION] = 0.6
        await world.until(lambda: ("rollback", {}) in world.calls)

    live(scenario, {CHAMPION: 0.97})
    fell = {one.decision: one for one in verdicts.read(store, "m") if one.metric == "agreement"}
    assert sorted(fell) == ["recurate", "rollback"]
    recurated = fell["recurate"]
    assert (recurated.kind, recurated.rows, recurated.version) == ("agreement", 100, "1")
    hard = set(recurated.request_ids)
    logged = {one["request_id"]: one for one in traffic.read(store, "m").to_pylist()}
    assert hard <= set(logged)
    wrong = [one for one in recurated.request_ids if logged[one]["judged"] is False]
    assert len(wrong) >= 20
    assert all(logged[one]["answer"] != logged[one]["teacher_answer"] for one in wrong)


def test_what_cannot_be_done_is_in_the_verdict(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        async def refuse() -> None:
            raise RaydistillError("no previous champion")

        world.rollback = refuse
        await world.until(lambda: bool(world.monitor.decisions))

    live(scenario, {CHAMPION: 0.5})
    assert verdicts.read(store, "m")[0].detail["not_done"] == "no previous champion"


def test_a_share_that_people_set_is_left_alone(live: Live, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.monitoring.judge.PATIENCE_S", 0.0)

    async def scenario(world: Any) -> None:
        await world.until(lambda: world.served["challenger"].weight == 0.5, 3)
        await world.second()
        await world.split({"challenger": 0.2})
        await world.second()
        await world.second()
        world.calls.clear()
        for _ in range(20):
            await world.second()
        assert world.calls == []
        assert world.served["challenger"].weight == 0.2
        assert world.monitor.judge.experiments["challenger"].status == "by_hand"

    live(scenario, {CHAMPION: 0.97, "challenger": 0.97}, step_units=10_000)


def test_a_challenger_is_judged_in_the_shadow_before_its_first_user(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.second()
        for _ in range(3):
            await world.second()
            if world.served["challenger"].weight:
                break
            assert world.monitor.judge.experiments["challenger"].status == "shadow"
        await world.until(lambda: world.served["challenger"].weight == 0.5)
        assert world.monitor.judge.stats["challenger"].judged >= 50

    live(scenario, {CHAMPION: 0.9, "challenger": 0.9}, shadow_units=50)
    rows = [one for one in traffic.read(store, "m").to_pylist() if one["shadow_arm"]]
    assert {one["shadow_arm"] for one in rows} == {"challenger"}
    assert all(one["shadow_answer"] and one["teacher_answer"] for one in rows)


def test_a_challenger_that_fails_in_the_shadow_never_meets_a_user(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.until(lambda: world.monitor.judge.experiments["challenger"].status == "rolled_back")
        assert not any(shares.get("challenger") for _, shares in world.calls)

    live(scenario, {CHAMPION: 0.95, "challenger": 0.5}, shadow_units=1000)


def test_feedback_counts_once_and_reaches_the_gateway_that_answered(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.second(10)
        other = world.gateways[1]
        for _ in range(3):
            other.feedback(Feedback("r0", 5, 1.0, None))  # r0 was answered by the first
        await world.second(0)
        await world.second(0)
        await world.second(0)
        stats = world.monitor.judge.stats[CHAMPION]
        assert (stats.rewarded, stats.rewards) == (1, 1.0)
        other.feedback(Feedback("r1", 6, -1.0, "right"))
        await world.second(0)
        assert (stats.rewarded, stats.rewards) == (2, 1.0)

    live(scenario, {CHAMPION: 1.0}, gateways=2)
    rows = {one["request_id"]: one for one in traffic.read(store, "m").to_pylist()}
    assert (rows["r0"]["reward"], rows["r1"]["reward"], rows["r1"]["label"]) == (1.0, -1.0, "right")


def test_a_batch_that_is_sent_twice_or_late_counts_once(live: Live) -> None:
    async def scenario(world: Any) -> None:
        await world.second(10)
        taken: list[Batch] = []
        push = world.link.push

        async def twice(batch: Batch) -> Any:
            taken.append(batch)
            await push(batch)
            return await push(batch)

        world.link.push = twice
        await world.second(10)
        assert world.monitor.judge.stats[CHAMPION].requests == 20
        old = replace(
            taken[-1], gateway="slow", number=0, arms=[replace(world.served[CHAMPION], version="0")], since_ms=1
        )
        await world.monitor.push(old)
        assert world.monitor.judge.arms[CHAMPION].version == "1"

    live(scenario, {CHAMPION: 1.0})


def test_an_alarm_that_a_killed_monitor_gave_is_not_given_again(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        async def refuse() -> None:
            raise RaydistillError("no previous champion")

        world.rollback = refuse
        await world.until(lambda: ("agreement", "recurate", "agreement") in said(store))
        world.link.monitor = world.monitor = Monitor(world.settings, world)
        for _ in range(10):
            await world.second()
        assert world.monitor.judge.quality["agreement"].last.drop > 0.05

    live(scenario, {CHAMPION: 0.6})
    assert said(store).count(("agreement", "recurate", "agreement")) == 1


def test_shadows_stay_within_their_budget_and_take_none_of_a_failed_request(live: Live) -> None:
    async def scenario(world: Any) -> None:
        await world.second(2000)
        assert 120 <= world.monitor.judge.stats[CHAMPION].judged <= 280
        judged = world.monitor.judge.stats[CHAMPION].judged
        await world.second(50, student=None, answer=None, outcome="unanswered")
        assert world.monitor.judge.stats[CHAMPION].judged == judged
        state = (await world.monitor.state())["arms"][0]
        assert state["errors"] == pytest.approx(50 / 2050)

    live(scenario, {CHAMPION: 1.0}, shadow=0.1)


def test_conversations_are_compared_with_the_teacher_where_they_can_be(live: Live) -> None:
    async def scenario(world: Any) -> None:
        await world.second(20, route="chat")
        assert world.monitor.judge.stats[CHAMPION].judged == 20
        await world.second(20, route="chat", comparable=False)
        assert world.monitor.judge.stats[CHAMPION].judged == 20
        assert world.monitor.judge.stats[CHAMPION].requests == 40

    live(scenario, {CHAMPION: 1.0})


def test_the_state_is_json_and_holds_what_the_page_shows(live: Live) -> None:
    async def scenario(world: Any) -> dict[str, Any]:
        await world.until(lambda: world.served["challenger"].weight == 0.5, 5)
        await world.second(200)
        return dict(json.loads(json.dumps(await world.monitor.state(), allow_nan=False)))

    state = live(scenario, {CHAMPION: 0.9, "challenger": 0.9}, price_per_hour=1.0, teacher_price_per_1000=2.0)
    champion, challenger = state["arms"]
    assert (champion["name"], challenger["share"]) == (CHAMPION, 0.5)
    assert champion["p95_ms"] == pytest.approx(5, rel=0.1)
    assert champion["agreement"]["low"] < champion["agreement"]["value"] < champion["agreement"]["high"]
    assert state["cost"] == {"unit": "money", "served": pytest.approx(5 / 3600), "teacher": 2.0,
                             "ratio": pytest.approx(5 / 7200)}  # fmt: skip


def test_a_watcher_that_is_off_still_splits_and_notes_nothing(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.split({"challenger": 0.5})
        assert {world.gateways[0].choose(f"u{one}") for one in range(50)} == {CHAMPION, "challenger"}
        gateway = world.gateways[0]
        gateway.answered(world.record(gateway, "r1"))

    live(scenario, {CHAMPION: 1.0, "challenger": 1.0}, enabled=False)
    assert traffic.read(store, "m").num_rows == 0
