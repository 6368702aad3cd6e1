"""Adds up what all gateways saw, and says what is to be done: one mind for one service.

Pure but for its memory; `serving.monitoring.monitor` gives it a clock, a store and hands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cluster.recipe.drift import DriftSection
from cluster.recipe.experiment import ExperimentSection
from serving.experiments.arms import ArmStats
from serving.experiments.events import Batch
from serving.experiments.experiment import OVER, Decided, Experiment
from serving.monitoring.drift import Fall, Inputs, Quality
from serving.seams.observe import CHAMPION, Arm
from serving.traffic.verdicts import Verdict

Action = Literal["split", "promote", "rollback", "none"]
MEASURES = ("agreement", "accuracy", "reward")
GATEWAYS = 100  # whose last batch is remembered over a restart (count)
PATIENCE_S = 10.0  # after which a share that is not the one last asked for was set by somebody else


@dataclass(frozen=True)
class Order:
    """Something to be done, and why: `shares` of all units for "split", the `arm` to "promote", the verdicts that say
    so (none where a share is only asked for again)."""

    action: Action
    shares: Mapping[str, float]
    verdicts: Sequence[Verdict]
    arm: str = ""


class Judge:
    """Experiments, drift and totals of what is served now; a new version begins anew."""

    def __init__(self, experiment: ExperimentSection, drift: DriftSection, references: Mapping[str, float]) -> None:
        """`references` is the quality at promotion by measure, where it is known."""
        self.section, self.drift, self._references = experiment, drift, dict(references)
        self.arms: dict[str, Arm] = {}
        self.since_ms = 0
        self.stats: dict[str, ArmStats] = {}
        self.experiments: dict[str, Experiment] = {}
        self._asked: dict[str, tuple[float, float]] = {}  # arm -> the share last asked for, and when
        self._numbers: dict[str, int] = {}
        self._falls: list[Fall] = []
        self._alarmed: set[str] = set()
        self._rolled_back = False
        self.psi: dict[str, float] = {}  # of every input, when they were last compared
        self._compared_s = -math.inf
        self.crowning = False  # a champion was ordered and is not there yet: what is known is about the one before
        self._fresh_champion()

    def awaits(self, gateway: str) -> int:
        """Number of the batch that follows what was taken from this gateway."""
        return self._numbers.get(gateway, -1) + 1

    def meet(self, batch: Batch, now_s: float) -> bool:
        """Judge the arms that a batch is about from now on; False where they are no longer served."""
        if not self._same_versions(batch.arms):
            if batch.since_ms < self.since_ms:
                return False
            self._turn_to(batch.arms, now_s)
            self.since_ms = batch.since_ms
        self.arms = {arm.name: arm for arm in batch.arms}
        return True

    def take(self, batch: Batch, now_s: float) -> None:
        """Add a batch; one that was taken before, or is of versions that are no longer served, changes nothing."""
        if batch.number < self.awaits(batch.gateway):
            return
        self._numbers.pop(batch.gateway, None)  # the last one heard stands last
        self._numbers[batch.gateway] = batch.number
        if not self.meet(batch, now_s):
            return
        for name, stats in batch.stats.items():
            self.stats.setdefault(name, ArmStats()).add(stats)
        for name, experiment in self.experiments.items():
            as_asked = math.isclose(self.arms[experiment.arm].weight, experiment.share, abs_tol=1e-9)
            experiment.add(
                event for event in batch.events
                if event.experiment == name and (as_asked or event.measure != "requests")
            )  # fmt: skip
        for row in batch.inputs:
            self.inputs.add(row)
        for judged in batch.judged:
            fall = self.quality[judged.measure].add(judged)
            if fall is not None:
                self._falls.append(fall)

    def decide(self, now_s: float, now_ms: int) -> list[Order]:
        """What is to be done now, in this order; `asked` says that a share was set."""
        orders = []
        for name, experiment in self.experiments.items():
            if self.crowning:
                break
            decided = experiment.decide(now_s)
            if decided is not None:
                orders.append(self._order(name, experiment, decided, now_ms))
            elif (share := self._wanted(experiment, now_s)) is not None:
                orders.append(Order("split", {experiment.arm: share}, ()))
        if self.crowning:  # falls are the old champion's; they count where it stays
            return orders + self._shifts(now_s, now_ms)
        orders += [order for fall in self._falls if (order := self._fallen(fall, now_ms)) is not None]
        self._falls = []
        return orders + self._shifts(now_s, now_ms)

    def plain(self, now_s: float) -> dict[str, Any]:
        """JSON-ready state of experiments, totals and drift, without the units that were seen."""
        return {
            "versions": {name: arm.version for name, arm in self.arms.items()},
            "numbers": dict(list(self._numbers.items())[-GATEWAYS:]),
            "experiments": {name: one.plain(now_s) for name, one in self.experiments.items()},
            "stats": {name: one.stored() for name, one in self.stats.items()},
            "asked": {arm: share for arm, (share, _) in self._asked.items()},
            "inputs": self.inputs.plain(),
            "quality": {name: one.plain() for name, one in self.quality.items()},
            "alarmed": sorted(self._alarmed),
            "rolled_back": self._rolled_back,
        }

    def restore(self, plain: Mapping[str, Any], seen: Mapping[str, Mapping[str, bytes]], now_s: float) -> None:
        """Take up what `plain` was, where it is of the versions that are served; `seen` by experiment and measure."""
        self._numbers |= plain["numbers"]
        if plain["versions"] != {name: arm.version for name, arm in self.arms.items()}:
            return
        for name, experiment in self.experiments.items():
            if name in plain["experiments"]:
                experiment.restore(plain["experiments"][name], seen[name], now_s)
        for name, stored in plain["stats"].items():
            self.stats.setdefault(name, ArmStats()).add(ArmStats.restored(stored))
        self._asked |= {arm: (share, now_s) for arm, share in plain["asked"].items()}
        self.inputs.restore(plain["inputs"])
        for name, one in self.quality.items():
            one.restore(plain["quality"][name])
        self._alarmed, self._rolled_back = set(plain["alarmed"]), plain["rolled_back"]

    def asked(self, shares: Mapping[str, float], now_s: float) -> None:
        """These shares were set as ordered."""
        for arm, share in shares.items():
            self._asked[arm] = (share, now_s)

    def quality_drop(self) -> dict[str, float]:
        """Relative drop of every measure in its last full window."""
        return {name: one.last.drop for name, one in self.quality.items() if one.last is not None}

    def _wanted(self, experiment: Experiment, now_s: float) -> float | None:
        """The share to ask for, None where it is as it should be or people have set another one."""
        arm, served = experiment.arm, self.arms[experiment.arm].weight
        if experiment.status == "by_hand" or math.isclose(served, experiment.share, abs_tol=1e-9):
            return None
        if arm in self._asked and math.isclose(self._asked[arm][0], experiment.share, abs_tol=1e-9):
            if now_s - self._asked[arm][1] > PATIENCE_S:
                experiment.by_hand()
            return None
        return experiment.share

    def _order(self, name: str, experiment: Experiment, decided: Decided, now_ms: int) -> Order:
        measured = decided.detail["measures"].get(decided.measure)
        rates: dict[str, Any] = {}
        if measured is not None:
            value, reference = measured["challenger"]["rate"], measured["champion"]["rate"]
            drop = 1 - value / reference if reference else 0.0
            rates = {"value": value, "reference": reference, "drop": drop, "rows": measured["challenger"]["units"]}
        arm = self.arms[experiment.arm]
        verdict = Verdict(
            now_ms, decided.kind, arm.model, arm.version, decided.measure, decided.decision, experiment=name,
            detail=decided.detail, **rates,
        )  # fmt: skip
        if decided.decision == "promote":
            self.crowning = True
            return Order("promote", {}, [verdict], experiment.arm)
        action: Action = "none" if experiment.status == "by_hand" else "split"
        return Order(action, {experiment.arm: decided.share} if action == "split" else {}, [verdict])

    def _fallen(self, fall: Fall, now_ms: int) -> Order | None:
        if not self.quality[fall.measure].alarm(fall) or fall.measure in self._alarmed:
            return None
        self._alarmed.add(fall.measure)
        first = not self._rolled_back
        self._rolled_back = True
        rollback = self.drift.rollback and first
        verdicts = [self._verdict(fall, "rollback" if rollback else "none", now_ms)]
        verdicts.append(self._verdict(fall, "recurate", now_ms))
        return Order("rollback" if rollback else "none", {}, verdicts)

    def _verdict(self, fall: Fall, decision: Literal["rollback", "none", "recurate"], now_ms: int) -> Verdict:
        champion = self.arms[CHAMPION]
        return Verdict(
            now_ms, "agreement" if fall.measure == "agreement" else "drift", champion.model, champion.version,
            fall.measure, decision, value=fall.value, reference=fall.reference, drop=fall.drop, rows=fall.rows,
            window_start=fall.window[0], window_end=fall.window[1], detail=fall.detail, request_ids=fall.hard,
        )  # fmt: skip

    def _shifts(self, now_s: float, now_ms: int) -> list[Order]:
        """Inputs that are no longer what they were: said once, acted on by people."""
        if now_s - self._compared_s >= self.drift.check_s:
            self._compared_s, self.psi = now_s, self.inputs.psi()
        found = []
        for name, value in self.psi.items():
            if value > self.drift.psi and name not in self._alarmed:
                self._alarmed.add(name)
                champion = self.arms[CHAMPION]
                verdict = Verdict(
                    now_ms, "drift", champion.model, champion.version, f"psi.{name}", "none", value=value,
                    reference=self.drift.psi, rows=self.drift.window, detail={"limit": self.drift.psi},
                )  # fmt: skip
                found.append(Order("none", {}, [verdict]))
        return found

    def _same_versions(self, arms: Sequence[Arm]) -> bool:
        return {name: _who(arm) for name, arm in self.arms.items()} == {arm.name: _who(arm) for arm in arms}

    def _turn_to(self, arms: Sequence[Arm], now_s: float) -> None:
        """Other versions are served: what belongs to one that is gone, goes."""
        new = {arm.name: arm for arm in arms}
        changed = {arm.name for arm in arms if arm.name not in self.arms or _who(self.arms[arm.name]) != _who(arm)}
        if CHAMPION in changed:
            if self.arms:  # another version than the one whose promotion is known
                self._references = {}
            self._fresh_champion()
        self.stats = {name: stats for name, stats in self.stats.items() if name in new and name not in changed}
        for name, (arm, units) in trial_arms(self.section).items():
            if arm not in new:
                self.experiments.pop(name, None)
            elif name not in self.experiments or changed & {arm, CHAMPION}:
                self.experiments[name] = Experiment(self.section, name, arm, units, now_s)
                self._asked.pop(arm, None)
                if new[arm].weight:  # somebody gave it a share before it was asked for
                    self.experiments[name].by_hand()

    def _fresh_champion(self) -> None:
        self.inputs, self.psi, self._compared_s = Inputs(self.drift), {}, -math.inf
        self.quality = {name: Quality(name, self.drift, self._references.get(name)) for name in MEASURES}
        self._falls, self._alarmed, self._rolled_back, self.crowning = [], set(), False, False

    def shadowed(self) -> list[str]:
        """Arms that are asked beside the champion before their first user."""
        return [one.arm for one in self.experiments.values() if one.status == "shadow"]

    def shares(self) -> dict[str, float]:
        """Share of all units that every arm has now."""
        return {name: arm.weight for name, arm in self.arms.items()}

    def running(self) -> bool:
        """Whether there is an experiment that is not over."""
        return any(one.status not in OVER for one in self.experiments.values())


def trial_arms(section: ExperimentSection) -> dict[str, tuple[str, float]]:
    """Experiment -> (its arm, the share of all units that it owns)."""
    return {section.name: ("challenger", section.units)} | {arm: (arm, units) for arm, units in section.others.items()}


def _who(arm: Arm) -> tuple[str, str]:
    return arm.model, arm.version
