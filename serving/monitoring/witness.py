"""The eyes of one gateway replica: chooses arms, logs traffic, asks shadows, and tells the monitor in batches.

Everything here is off the path of answers: numbers go into lists, files are written in a thread, the teacher is asked
after the user has the answer, and each second one batch goes to `serving.monitoring.monitor`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cluster import metrics
from cluster.recipe.experiment import ExperimentSection
from cluster.recipe.traffic import TrafficSection
from cluster.store import Store
from serving.experiments.arms import ArmStats
from serving.experiments.events import Batch, Event, Judged, Measure
from serving.experiments.split import Split, number, trials
from serving.fallback.tokens import Tokens
from serving.monitoring import drift
from serving.monitoring.batches import Filling, now_ms, row
from serving.monitoring.judge import trial_arms
from serving.monitoring.likeness import likeness
from serving.monitoring.monitor import Reply
from serving.monitoring.outbox import Outbox
from serving.monitoring.shadows import Compared, Shadows
from serving.seams.observe import CHAMPION, Arm, Ask, Feedback, LetIn, Record
from serving.traffic.log import TrafficLog, kept

log = logging.getLogger(__name__)

PUSH_S = 1.0
RECENT = 20_000  # requests that feedback may still be about (count)
EVENTS_MAX = 100_000  # of one batch; more are dropped while the monitor does not answer
NO_FAULT = ("student", "student_anyway", "teacher")
FAULTS = ("unanswered", "failed")


class Link(Protocol):
    """The way to the monitor; raises where it does not answer."""

    async def push(self, batch: Batch) -> Reply:
        """Hand over a batch."""

    async def state(self) -> dict[str, Any]:
        """What the page shows."""


@dataclass
class Known:
    """What feedback needs of a request: who answered, for whom, and what."""

    experiment: str | None
    arm: str
    unit: int
    text: str | None
    confidence: float
    fed: bool = False


class Witness:
    """See `observe.Observer`."""

    def __init__(self, settings: Mapping[str, Any], ask: Ask, link: Link) -> None:
        """`settings` is what `watcher.spec` has in "args"; `ask` is for shadows."""
        self.model, self.task = str(settings["model"]), str(settings["task"])
        self.section = ExperimentSection.parse(settings["experiment"])
        self.traffic = TrafficSection.parse(settings["traffic"])
        self.log = TrafficLog(Store.open(settings["store"]), self.model, self.traffic, self._logged)
        self.shadows = Shadows(ask, self.section.shadow_queue, self.section.shadow_concurrency, self._compared)
        self._link = link
        self._budget = Tokens(self.section.shadow, self.section.shadow_queue)
        self._salt, self._split = "", Split((), "", ())
        self._versions: list[tuple[str, str, str]] = []
        self._shadowed: Sequence[str] = ()
        self._recent: OrderedDict[str, Known] = OrderedDict()
        self._batch = Filling(uuid.uuid4().hex)
        self._outbox = Outbox()
        self._tasks: list[asyncio.Task[None]] = []

    def configure(self, arms: Sequence[Arm], salt: str) -> None:
        """See `Observer.configure`."""
        names = {arm.name for arm in arms}
        named = {name: one for name, one in trial_arms(self.section).items() if one[0] in names}
        owned = trials(
            {name: units for name, (_, units) in named.items()}, {name: arm for name, (arm, _) in named.items()}
        )
        self._salt, self._split = salt, Split(arms, salt, owned)
        versions = [(arm.name, arm.model, arm.version) for arm in arms]
        if tuple(arms) != self._batch.arms:
            self._send()  # what was routed by the old shares is judged by them
        if versions != self._versions:
            self._versions, self._batch.since_ms = versions, now_ms()
        self._batch.arms = tuple(arms)
        self._begin()

    def choose(self, unit: str) -> str:
        """See `Observer.choose`."""
        return self._split.choose(unit).arm

    def answered(self, record: Record) -> None:
        """See `Observer.answered`."""
        try:
            self._answered(record)
        except Exception:
            log.exception("a request is not noted")

    def feedback(self, given: Feedback) -> None:
        """See `Observer.feedback`."""
        self.log.add({"request_id": given.request_id, "at": given.at_ms, "reward": given.reward, "label": given.label})
        if not self._feed(given):
            self._batch.said.append(given)

    def router(self, known: LetIn) -> Any:
        """See `Observer.router`."""
        from serving.page.routes import router

        return router(self.state, known)

    async def state(self) -> dict[str, Any]:
        """What the page shows; raises what reaching the monitor raises."""
        return await self._link.state()

    async def close(self) -> None:
        """See `Observer.close`."""
        self.shadows.stop()
        for task in self._tasks:
            task.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.push(), PUSH_S)
        await asyncio.to_thread(self.log.close)

    async def push(self) -> None:
        """Hand over what was seen; what the monitor does not take, or has not written down, is kept."""
        self._send()
        while (batch := self._outbox.next()) is not None:
            reply = await self._link.push(batch)
            self._outbox.heard(reply)
            self._shadowed = reply.shadowed
            for given in reply.said:
                self._feed(given)

    def _begin(self) -> None:
        """Start what runs beside, once there is a loop to run on."""
        if self._tasks or not self.section.enabled:
            return
        with contextlib.suppress(RuntimeError):
            self._tasks.append(asyncio.get_running_loop().create_task(self._run()))
            self.shadows.start()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PUSH_S)
            try:
                await self.push()
            except Exception as error:  # noqa: BLE001 - the monitor may be on its way up again
                log.warning("the monitor does not answer: %r", error)

    def _answered(self, record: Record) -> None:
        if not self.section.enabled:
            return
        chosen = self._split.choose(record.unit)
        experiment = chosen.experiment if chosen.arm == record.arm else None  # a share that changed meanwhile
        unit = number(self._salt, record.unit if self.section.counted == "unit" else record.request_id)
        self._count(record)
        own = record.student
        known = Known(experiment, record.arm, unit, own.text if own else None, own.confidence if own else 0.0)
        if record.request_id not in self._recent:
            self._remember(record.request_id, known)
            self._happened(known, "requests", 1.0, record.at_ms)
            if record.outcome in NO_FAULT + FAULTS:
                self._happened(known, "errors", float(record.outcome in NO_FAULT), record.at_ms)
                self._happened(known, "deferrals", float(not record.fell_back), record.at_ms)
        if kept(record.request_id, self.traffic.share):
            self.log.add(row(record, experiment, f"{unit:016x}"))
            if record.arm == CHAMPION and own is not None:
                self._batch.inputs.append(drift.inputs(record.item, own.text, own.confidence))
        self._shadow(record, experiment)

    def _count(self, record: Record) -> None:
        deferred = record.fell_back
        self._stats(record.arm).note(record.outcome, record.reason, deferred, record.latency_ms)
        tags = {"model": self.model, "arm": record.arm}
        metrics.histogram("latency_ms").observe(max(record.latency_ms, 1e-3), tags=tags)
        metrics.counter("arm_requests").inc(tags={**tags, "outcome": record.outcome})

    def _shadow(self, record: Record, experiment: str | None) -> None:
        """A shadow for all of the challenger's requests that the budget allows, and for a fair share of the champion's:
        chosen by the request's id, never by its answer."""
        self._budget.pour()
        if record.student is None or not record.comparable:
            return
        compared = self.section.shadow / (2 if experiment is not None else 1)
        if (record.arm == CHAMPION and not kept(f"shadow {record.request_id}", compared)) or not self._budget.take():
            return
        arm = None
        if self._shadowed and record.arm == CHAMPION and kept(f"arm {record.request_id}", 0.5):
            arm = self._shadowed[number("arm", record.request_id) % len(self._shadowed)]
        if not self.shadows.put(record, arm):
            metrics.counter("shadows_dropped").inc(tags={"model": self.model})

    def _compared(self, compared: Compared | None) -> None:
        if compared is None:
            metrics.counter("shadows").inc(tags={"model": self.model, "arm": "unknown", "result": "failed"})
            return
        record, own, taught = compared.record, compared.own, compared.taught
        good = likeness(self.task, own.text, taught.text)
        stats = self._stats(compared.arm)
        stats.agreed, stats.judged = stats.agreed + good, stats.judged + 1
        stats.teacher_ms, stats.teacher_calls = stats.teacher_ms + compared.teacher_ms, stats.teacher_calls + 1
        result = "agrees" if good == 1 else "differs"
        metrics.counter("shadows").inc(tags={"model": self.model, "arm": compared.arm, "result": result})
        metrics.histogram("teacher_latency_ms").observe(max(compared.teacher_ms, 1e-3), tags={"model": self.model})
        known = self._recent.get(record.request_id)
        if known is not None:
            if compared.shadow:
                owner = next((name for name, (arm, _) in trial_arms(self.section).items() if arm == compared.arm), None)
                known = replace(known, arm=compared.arm, experiment=owner)
            self._happened(known, "agreement", good, record.at_ms)
        if compared.arm == CHAMPION:
            self._judged(record.request_id, "agreement", good, own.confidence, record.at_ms)
        more = {"request_id": record.request_id, "at": record.at_ms, "teacher_answer": taught.text}
        more |= {"shadow_arm": compared.arm, "shadow_answer": own.text} if compared.shadow else {"judged": good == 1}
        self.log.add(more)

    def _feed(self, given: Feedback) -> bool:
        """Count feedback about a request that this replica answered, once; False where it did not."""
        known = self._recent.get(given.request_id)
        if known is None:
            return False
        if known.fed:
            return True
        known.fed = True
        stats = self._stats(known.arm)
        if given.reward is not None:
            reward = (min(max(given.reward, -1.0), 1.0) + 1) / 2
            stats.rewards, stats.rewarded = stats.rewards + reward, stats.rewarded + 1
            self._happened(known, "reward", reward, given.at_ms)
            metrics.counter("feedback").inc(tags={"model": self.model, "kind": "reward"})
            if known.arm == CHAMPION:
                self._judged(given.request_id, "reward", reward, known.confidence, given.at_ms)
        if given.label is not None and known.text is not None:
            metrics.counter("feedback").inc(tags={"model": self.model, "kind": "label"})
            if known.arm == CHAMPION:
                good = likeness(self.task, known.text, given.label)
                self._judged(given.request_id, "accuracy", good, known.confidence, given.at_ms)
        return True

    def _happened(self, known: Known, measure: Measure, good: float, at_ms: int) -> None:
        if known.experiment is not None and len(self._batch.events) < EVENTS_MAX:
            self._batch.events.append(Event(known.experiment, known.arm, known.unit, measure, good, at_ms))

    def _judged(self, request_id: str, measure: Any, good: float, confidence: float, at_ms: int) -> None:
        self._batch.judged.append(Judged(request_id, measure, good, confidence, at_ms))

    def _stats(self, arm: str) -> ArmStats:
        return self._batch.stats.setdefault(arm, ArmStats())

    def _remember(self, request_id: str, known: Known) -> None:
        self._recent[request_id] = known
        while len(self._recent) > RECENT:
            self._recent.popitem(last=False)

    def _send(self) -> None:
        if self._batch.arms:
            self._outbox.put(self._batch.closed())
            self._batch = self._batch.following()

    def _logged(self, what: str, rows: int) -> None:
        if what == "written":
            metrics.counter("traffic_rows").inc(rows, tags={"model": self.model})
        else:
            metrics.counter("traffic_dropped").inc(rows, tags={"model": self.model, "reason": what})
