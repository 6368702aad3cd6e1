"""Takes the batches of all gateways, lets the judge decide, acts through the control actor, and keeps what it knows in
the store, so that a restart goes on where it was. `serving.monitoring.actor` runs it beside the gateways.

It may be killed at any time. What it has written down it takes up again; what it has not, the gateways still have and
send again (`serving.monitoring.outbox`); an order is written down before it is carried out.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from cluster import metrics
from cluster.errors import RaydistillError
from cluster.recipe.drift import DriftSection
from cluster.recipe.experiment import ExperimentSection
from cluster.store import Store
from serving.experiments.events import Batch
from serving.monitoring import cost, likeness
from serving.monitoring.judge import Judge, Order
from serving.seams.observe import Feedback
from serving.traffic import verdicts
from serving.traffic.verdicts import Verdict

log = logging.getLogger(__name__)

SAVE_S = 15.0
SHOWN = 50  # decisions on the page
SAID_KEPT, SAID_SAVED = 10_000, 1000  # feedback about others' requests (count)
FORM = 2  # of what is saved; another one is not taken up
INTERRUPTED = "the monitor ended while this was carried out: the arms show whether it was"


@dataclass(frozen=True)
class Reply:
    """What a gateway is told: the arms to ask in the shadow, feedback about requests that others answered, the number
    of its batch that is to come next, and that of the last one that is written down (-1: none)."""

    shadowed: Sequence[str]
    said: Sequence[Feedback]
    awaits: int
    saved: int


class Hands(Protocol):
    """Who changes what is served: the control actor. Raises RaydistillError when it cannot."""

    async def split(self, shares: Mapping[str, float]) -> object:
        """Give arms these shares of all units."""

    async def promote(self, arm: str, version: str) -> object:
        """The challenger of this name becomes the champion, if it is the version that was judged."""

    async def rollback(self) -> object:
        """The previous champion is champion again."""


class Monitor:
    """One per service; `push` and `state` are called by gateways, `tick` by its own clock."""

    def __init__(self, settings: Mapping[str, Any], hands: Hands) -> None:
        """`settings` is what `watcher.spec` has in "args"."""
        self.model = str(settings["model"])
        self.store = Store.open(settings["store"])
        self.section = ExperimentSection.parse(settings["experiment"])
        self.measure = likeness.measure(str(settings["task"]))
        self.judge = Judge(self.section, DriftSection.parse(settings["drift"]), settings["references"])
        self.hands = hands
        self.decisions: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        self.heard_s = time.monotonic()
        self._saved_s = time.monotonic()
        self._said: deque[Feedback] = deque()  # about requests that another gateway answered
        self._said_before = 0  # feedback that is no longer kept
        self._heard: dict[str, int] = {}
        self._written: dict[str, int] = {}  # gateway -> its last batch that a save has in it
        with contextlib.suppress(OSError, RaydistillError):
            self.decisions.extend(one.row() for one in verdicts.read(self.store, self.model)[-SHOWN:])

    async def push(self, batch: Batch) -> Reply:
        """Take a batch, unless the gateway has earlier ones that are not known here: then those come first."""
        self.heard_s, since_ms = time.monotonic(), self.judge.since_ms
        if not self.judge.arms and self.judge.meet(batch, self.heard_s):
            self._restore()
        if self.judge.awaits(batch.gateway) <= batch.number <= max(self.judge.awaits(batch.gateway), batch.oldest):
            self._said.extend(batch.said)
            try:
                self.judge.take(batch, self.heard_s)
            except Exception:  # sent again it would fail again, and hold up what follows
                log.exception("a batch of %s is not understood", batch.gateway)
        if self.judge.since_ms != since_ms:  # other versions: what is written of the earlier ones would not be taken up
            self.save()
        heard = self._heard.get(batch.gateway, self._said_before)
        self._heard[batch.gateway] = self._said_before + len(self._said)
        self._forget()
        said = list(self._said)[max(0, heard - self._said_before) :]
        saved = self._written.get(batch.gateway, -1)
        return Reply(self.judge.shadowed(), said, self.judge.awaits(batch.gateway), saved)

    def _forget(self) -> None:
        while len(self._said) > SAID_KEPT:
            self._said.popleft()
            self._said_before += 1

    async def tick(self) -> None:
        """Decide and act; what cannot be done now is said, and asked for again where it is a share."""
        if not self.judge.arms:
            return
        before = [one.status for one in self.judge.experiments.values()]
        orders = self.judge.decide(time.monotonic(), time.time_ns() // 1_000_000)
        ordered = [verdict for order in orders for verdict in order.verdicts]
        if ordered:
            self.save(ordered)
        for order in orders:
            await self._obey(order)
        if ordered or before != [one.status for one in self.judge.experiments.values()]:
            self.save()
        self._measure()
        if time.monotonic() - self._saved_s > SAVE_S:
            self.save()

    async def state(self) -> dict[str, Any]:
        """What the page shows."""
        judge = self.judge
        arms = [
            {"name": arm.name, "model": arm.model, "version": arm.version, "share": arm.weight,
             **(judge.stats[arm.name].plain(self.section.alpha) if arm.name in judge.stats else {})}
            for arm in judge.arms.values()
        ]  # fmt: skip
        drift = {
            "psi": judge.psi, "psi_limit": judge.drift.psi, "drop_limit": judge.drift.drop,
            "quality": {
                name: {"value": one.last.value, "reference": one.last.reference, "drop": one.last.drop}
                for name, one in judge.quality.items() if one.last is not None
            },
        }  # fmt: skip
        return {
            "model": self.model, "at_ms": time.time_ns() // 1_000_000, "alpha": self.section.alpha,
            "measure": self.measure, "arms": arms,
            "experiments": [one.numbers() for one in judge.experiments.values()], "drift": drift,
            "cost": cost.per_1000(judge.stats, self.section), "decisions": list(self.decisions)[::-1],
        }  # fmt: skip

    async def _obey(self, order: Order) -> None:
        failure = None
        try:
            if order.action == "split":
                await self.hands.split(order.shares)
                self.judge.asked(order.shares, time.monotonic())
            elif order.action == "promote":
                await self.hands.promote(order.arm, order.verdicts[0].version)
            elif order.action == "rollback":
                await self.hands.rollback()
        except RaydistillError as error:
            failure = str(error)
            if order.action == "promote":
                self.judge.crowning = False
            log.warning("%s is not done: %s", order.action, error)
        for verdict in order.verdicts:
            self._note(verdict, failure)

    def _note(self, verdict: Verdict, failure: str | None) -> None:
        row = verdict.row()
        noted = Verdict(**{**vars(verdict), "detail": {**verdict.detail, "not_done": failure}}) if failure else verdict
        log.warning("%s %s: %s by %s", verdict.kind, verdict.version, verdict.decision, verdict.metric)
        metrics.counter("decisions").inc(tags={"model": self.model, "kind": verdict.kind, "decision": verdict.decision})
        self.decisions.append(row | {"not_done": failure})
        try:
            verdicts.append(self.store, noted)
        except (OSError, RaydistillError):
            log.exception("a verdict is not written")

    def _measure(self) -> None:
        judge = self.judge
        for name, arm in judge.arms.items():
            tags = {"model": self.model, "arm": name}
            metrics.gauge("arm_share").set(arm.weight, tags=tags)
            if name not in judge.stats:
                continue
            agreement = judge.stats[name].plain(self.section.alpha)["agreement"]
            metrics.gauge("judged").set(agreement["judged"], tags=tags)
            if agreement["value"] is not None:
                for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
                    metrics.gauge(f"agreement{end}").set(agreement[key], tags={**tags, "measure": self.measure})
        for name, experiment in judge.experiments.items():
            for measure, one in experiment.measures.items():
                tags = {"model": self.model, "arm": experiment.arm, "metric": measure}
                metrics.gauge("evidence").set(one.worse.log_e / math.log(10), tags=tags)
            tags = {"model": self.model, "experiment": name}
            metrics.gauge("srm").set(min(experiment.srm_log_e, 1e9) / math.log(10), tags=tags)
            metrics.gauge("srm_limit").set(-math.log10(self.section.srm_alpha), tags=tags)
        for name, value in judge.psi.items():
            metrics.gauge("psi").set(value, tags={"model": self.model, "input": name})
        for name, drop in judge.quality_drop().items():
            metrics.gauge("quality_drop").set(drop, tags={"model": self.model, "metric": name})
        accuracy = judge.quality["accuracy"].last
        if accuracy is not None:
            metrics.gauge("accuracy").set(accuracy.value, tags={"model": self.model, "measure": self.measure})

    def save(self, ordered: Sequence[Verdict] = ()) -> None:
        """Write what is known, and verdicts that are about to be carried out; a failure is said and tried again."""
        self._saved_s = time.monotonic()
        if not self.judge.arms:  # nothing is known yet: what is written stays
            return
        seen = {
            name: {measure: _packed(seen.bits()) for measure, seen in one.seen.items()}
            for name, one in self.judge.experiments.items()
        }
        record = self.judge.plain(time.monotonic()) | {
            "form": FORM, "seen": seen, "ordered": [one.row() for one in ordered],
            "said": [asdict(one) for one in list(self._said)[-SAID_SAVED:]],
        }  # fmt: skip
        try:
            self.store.write_record(f"experiments/{self.model}", record)
        except (OSError, RaydistillError):
            log.exception("the state of experiments is not written")
        else:
            self._written = record["numbers"]

    def _restore(self) -> None:
        """Take up what was saved, where it is of the versions that are served; verdicts that were being carried out
        are noted where they are not yet."""
        record = self.store.read_record(f"experiments/{self.model}")
        if record is None or "form" not in record or record["form"] != FORM:
            return
        seen = {
            name: {measure: _unpacked(text) for measure, text in one.items()} for name, one in record["seen"].items()
        }
        self.judge.restore(record, seen, time.monotonic())
        self._written = record["numbers"]
        self._said.extend(Feedback(**one) for one in record["said"])
        noted = {one["verdict_id"] for one in self.decisions}
        for one in record["ordered"]:
            if one["verdict_id"] not in noted:
                self._note(verdicts.of_row(one), INTERRUPTED)


def _packed(bits: bytes) -> str:
    return base64.b64encode(zlib.compress(bits, 1)).decode()


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text))
