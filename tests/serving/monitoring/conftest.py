"""A service in one process: real observers and a real monitor over a real store; only models and HTTP are left out."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.errors import RaydistillError
from cluster.recipe import DriftSection, ExperimentSection, TrafficSection
from cluster.store import Store
from serving.bundle.answer import Answer
from serving.experiments.events import Batch
from serving.monitoring.monitor import Monitor, Reply
from serving.monitoring.witness import Witness
from serving.seams.observe import CHAMPION, Arm, Record

CLOCK_MS = 1_700_000_000_000
# Task -> what the teacher says, what a student says that does well, and what one says that does not.
SAYS = {
    "text_classification": ("right", "right", "wrong"),
    "text_generation": ("the cat sat on the old mat", "the cat sat on the old sofa", "a dog ran"),
}


class Direct:
    """A monitor in this process, as `monitor_actor.Link` reaches it over Ray."""

    def __init__(self, monitor: Monitor) -> None:
        self.monitor, self.down = monitor, False

    async def push(self, batch: Batch) -> Reply:
        if self.down:
            raise RaydistillError("down")
        return await self.monitor.push(batch)

    async def state(self) -> dict[str, Any]:
        return await self.monitor.state()


class World:
    """Gateways, and who serves what: `served` is what a control actor would hold."""

    def __init__(
        self,
        store: Store,
        rates: Mapping[str, float],
        gateways: int = 1,
        seed: int = 0,
        task: str = "text_classification",
        **knobs: Any,
    ) -> None:
        """`rates` is how often each arm's answer is as good as it gets."""
        experiment = {"ramp": [0.5], "step_units": 50, "step_s": 0.0, "shadow": 1.0, "shadow_queue": 1000} | knobs
        self.settings = {
            "model": "m", "task": task, "store": store.root,
            "references": {} if task == "text_generation" else {"agreement": 0.95},
            "experiment": ExperimentSection(**experiment).model_dump(mode="json"),
            "traffic": TrafficSection(file_s=1000.0).model_dump(mode="json"),
            "drift": DriftSection(window=100, reference=100).model_dump(mode="json"),
        }  # fmt: skip
        self.store, self.rates, self.random = store, dict(rates), np.random.default_rng(seed)
        self.served = {CHAMPION: Arm(CHAMPION, "m", "1", 1.0)}
        challengers = [name for name in rates if name.startswith("challenger")]
        self.served |= {name: Arm(name, "m", str(2 + n), 0.0) for n, name in enumerate(challengers)}
        self.calls: list[tuple[str, dict[str, float]]] = []
        self.asked = 0
        self.teacher, self.good, self.bad = SAYS[task]
        self.monitor = Monitor(self.settings, self)
        self.link = Direct(self.monitor)
        self.gateways = [Witness(self.settings, self.ask, self.link) for _ in range(gateways)]
        self.configure()

    def configure(self) -> None:
        for gateway in self.gateways:
            gateway.configure(list(self.served.values()), "salt")

    async def ask(self, arm: str, item: Mapping[str, Any]) -> Answer:
        return self.answer("teacher" if arm == "teacher" else arm)

    def answer(self, arm: str) -> Answer:
        if arm == "teacher":
            return Answer(self.teacher, 0.9)
        return Answer(self.good if self.random.random() < self.rates[arm] else self.bad, 0.9)

    async def split(self, shares: Mapping[str, float]) -> None:
        self.calls.append(("split", dict(shares)))
        for name, share in shares.items():
            self.served[name] = Arm(name, "m", self.served[name].version, share)
        rest = 1 - sum(arm.weight for arm in self.served.values() if arm.name != CHAMPION)
        self.served[CHAMPION] = replace(self.served[CHAMPION], weight=rest)
        self.configure()

    async def promote(self, arm: str, version: str) -> None:
        self.calls.append(("promote", {"arm": arm}))
        assert version == self.served[arm].version
        crowned = Arm(CHAMPION, "m", self.served[arm].version, 1.0)
        others = {name: replace(one, weight=0.0) for name, one in self.served.items() if name not in (CHAMPION, arm)}
        self.served = {CHAMPION: crowned, **others}
        self.configure()

    async def rollback(self) -> None:
        self.calls.append(("rollback", {}))
        self.served = {CHAMPION: Arm(CHAMPION, "m", "0", 1.0)}
        self.configure()

    async def second(self, requests: int = 40, **more: Any) -> None:
        """Some requests of new users, their shadows, a batch of every gateway, and a look at them."""
        for _ in range(requests):
            gateway = self.gateways[self.asked % len(self.gateways)]
            gateway.answered(self.record(gateway, f"r{self.asked}", **more))
            self.asked += 1
        for gateway in self.gateways:
            await gateway.shadows.drained()
            await gateway.push()
        await self.monitor.tick()

    def record(self, gateway: Witness, request_id: str, **more: Any) -> Record:
        unit = f"unit of {request_id}"
        arm = gateway.choose(unit)
        answer = self.answer(arm)
        return Record(**{
            "request_id": request_id, "at_ms": CLOCK_MS + self.asked, "route": "predict", "unit": unit, "arm": arm,
            "model": "m", "version": self.served[arm].version, "item": {"text": "which one ?"}, "answer": answer,
            "student": answer, "outcome": "student", "fell_back": False, "reason": None, "latency_ms": 5.0,
        } | more)  # fmt: skip

    async def until(self, what: Callable[[], bool], seconds: int = 200) -> None:
        for _ in range(seconds):
            await self.second()
            if what():
                return
        raise AssertionError(f"not in {seconds} s: {self.calls}, {list(self.monitor.decisions)}")

    async def close(self) -> None:
        for gateway in self.gateways:
            await gateway.close()


@pytest.fixture
def live(store: Store) -> Iterator[Callable[..., Any]]:
    """`live(scenario, rates, **knobs)` runs `async scenario(world)` in a world that is closed at its end."""

    def run(scenario: Callable[[World], Any], rates: Mapping[str, float], **knobs: Any) -> Any:
        async def lived() -> Any:
            world = World(store, rates, **knobs)
            try:
                return await scenario(world)
            finally:
                await world.close()

        return asyncio.run(lived())

    return run
