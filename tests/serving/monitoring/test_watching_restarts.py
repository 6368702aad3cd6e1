"""A monitor that is away, starts again or is killed: nothing that gateways saw is lost, or counted or done twice."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.errors import RaydistillError
from cluster.store import Store
from serving.experiments.events import Batch
from serving.monitoring.monitor import Monitor
from serving.seams.observe import CHAMPION, Arm, Feedback
from serving.traffic import verdicts

Live = Callable[..., Any]


def test_while_the_monitor_is_away_nothing_is_lost_and_nobody_waits(live: Live) -> None:
    async def scenario(world: Any) -> None:
        world.link.down = True
        for _ in range(3):
            with pytest.raises(RaydistillError):
                await world.second(10)
        world.link.down = False
        await world.second(10)
        assert world.monitor.judge.stats[CHAMPION].requests == 40

    live(scenario, {CHAMPION: 1.0})


def test_a_monitor_that_starts_again_goes_on_where_it_was(live: Live) -> None:
    async def scenario(world: Any) -> None:
        for _ in range(10):
            await world.second()
        world.monitor.save()
        before = world.monitor.judge.experiments["challenger"]
        again = Monitor(world.settings, world)
        world.link.monitor = again
        await world.gateways[0].push()
        after = again.judge.experiments["challenger"]
        assert after.numbers() == before.numbers()
        assert after.measures["agreement"].judged > 0
        requests = world.monitor.judge.stats[CHAMPION].requests
        assert again.judge.stats[CHAMPION].requests == requests

    live(scenario, {CHAMPION: 0.97, "challenger": 0.97}, step_units=10_000)


def test_a_monitor_that_dies_without_a_word_has_lost_no_decision(live: Live, store: Store) -> None:
    async def scenario(world: Any) -> None:
        await world.until(lambda: world.monitor.judge.experiments["challenger"].status == "rolled_back")
        again = Monitor(world.settings, world)  # nothing was saved after the decision
        world.link.monitor = world.monitor = again
        before = list(world.calls)
        for _ in range(5):
            await world.second()
        assert again.judge.experiments["challenger"].status == "rolled_back"
        assert world.calls == before  # it is not asked for again, and the challenger stays out
        assert [one["decision"] for one in again.decisions].count("rollback") == 1

    live(scenario, {CHAMPION: 0.95, "challenger": 0.6})
    assert [one.decision for one in verdicts.read(store, "m")].count("rollback") == 1


def test_what_a_killed_monitor_had_not_written_down_is_told_again_and_counts_once(live: Live) -> None:
    async def scenario(world: Any) -> None:
        for second in range(12):
            await world.second(60)
            if second == 5:
                world.monitor.save()
        before = world.monitor
        world.link.monitor = world.monitor = Monitor(world.settings, world)
        for gateway in (*world.gateways, *world.gateways):
            await gateway.push()
        again = world.monitor.judge
        assert again.stats == before.judge.stats
        assert again.stats[CHAMPION].requests + again.stats["challenger"].requests == 720
        old, new = (one.experiments["challenger"] for one in (before.judge, again))
        new.decide(0.0)  # what came in two blocks comes in one
        assert new.routed == old.routed
        for measure, counted in old.measures.items():
            assert (new.measures[measure].worse.a, new.measures[measure].worse.b) == (counted.worse.a, counted.worse.b)
        rows = [len(one.plain(0.0)["quality"]["agreement"]["rows"]) for one in (before.judge, again)]
        assert rows[0] == rows[1]  # not the same ones: two gateways' batches come in another order
        assert again.inputs.plain()["reference"] == before.judge.inputs.plain()["reference"]

    live(scenario, {CHAMPION: 0.95, "challenger": 0.95}, gateways=2, step_units=10_000)


def test_a_monitor_that_is_killed_soon_after_an_arm_came_knows_what_was_before_it(live: Live) -> None:
    async def scenario(world: Any) -> None:
        for second in range(6):
            await world.second(60)
            if second == 2:
                world.monitor.save()
        world.rates["challenger"] = 1.0
        world.served = {CHAMPION: Arm(CHAMPION, "m", "1", 0.7), "challenger": Arm("challenger", "m", "2", 0.3)}
        world.configure()
        for _ in range(3):
            await world.second(60)
        before = world.monitor.judge.stats
        world.link.monitor = world.monitor = Monitor(world.settings, world)
        for gateway in (*world.gateways, *world.gateways):
            await gateway.push()
        again = world.monitor.judge.stats
        assert {name: one.requests for name, one in again.items()} == {n: one.requests for n, one in before.items()}
        assert again[CHAMPION].requests + again["challenger"].requests == 540

    live(scenario, {CHAMPION: 1.0}, gateways=2, step_units=10_000)


def test_feedback_that_waits_for_its_gateway_outlives_the_monitor(live: Live) -> None:
    async def scenario(world: Any) -> None:
        await world.second(10)
        world.gateways[1].feedback(Feedback("r0", 5, 1.0, None))  # r0 was answered by the first
        await world.gateways[1].push()
        world.monitor.save()
        world.link.monitor = world.monitor = Monitor(world.settings, world)
        await world.second(0)
        await world.second(0)
        stats = world.monitor.judge.stats[CHAMPION]
        assert (stats.requests, stats.rewarded, stats.rewards) == (10, 1, 1.0)

    live(scenario, {CHAMPION: 1.0}, gateways=2)


class Killed(BaseException):
    """What the kernel does, as far as a process can do it to itself."""


@pytest.mark.parametrize("done", [False, True])
def test_an_order_in_the_midst_of_which_the_monitor_is_killed_is_on_record_once(
    live: Live, store: Store, done: bool
) -> None:
    async def scenario(world: Any) -> None:
        split = world.split

        async def killed(shares: Any) -> None:
            if done:
                await split(shares)
            raise Killed

        await world.until(lambda: world.served["challenger"].weight == 0.2, 3)
        world.split = killed
        with pytest.raises(Killed):
            await world.until(lambda: False)
        world.split = split
        world.link.monitor = world.monitor = Monitor(world.settings, world)
        await world.until(lambda: world.served["challenger"].weight == 0.5, 2)
        await world.second()
        assert world.monitor.judge.experiments["challenger"].status == "ramp"  # it was not people who set the share
        again = Monitor(world.settings, world)
        await again.push(Batch("other", 0, list(world.served.values())))

    live(scenario, {CHAMPION: 0.97, "challenger": 0.97}, ramp=[0.2, 0.5])
    (step,) = [one for one in verdicts.read(store, "m") if one.detail["step"] == 1]
    assert "ended while" in step.detail["not_done"]
