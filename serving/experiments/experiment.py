"""One experiment as its policy has it: what is counted, when its ramp goes on, when it is promoted or rolled back.

Pure: time and events are passed in, what comes out are decisions with their numbers; a monitor acts on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cluster.recipe.experiment import ExperimentSection
from serving.experiments.comparison import Comparison
from serving.experiments.events import Event
from serving.experiments.sequential import sample_ratio_log_e
from serving.experiments.units import Seen
from serving.seams.observe import CHAMPION
from serving.traffic.verdicts import Decision, Kind

Status = Literal["shadow", "ramp", "full", "mismatch", "by_hand", "promoted", "rolled_back"]
OVER = ("promoted", "rolled_back")
TESTED = ("agreement", "reward", "errors", "deferrals")


@dataclass(frozen=True)
class Decided:
    """What an experiment wants done: `share` of all units for its arm from now on, and the numbers behind it."""

    kind: Kind
    decision: Decision
    measure: str
    share: float
    detail: Mapping[str, Any]


class Experiment:
    """Champion against one arm on the experiment's own units; each unit counts once for each measure."""

    def __init__(self, section: ExperimentSection, name: str, arm: str, units: float, now_s: float) -> None:
        """`units` is the share of all units that it owns; `now_s` any clock that goes on, in seconds."""
        self.section, self.name, self.arm, self.units = section, name, arm, units
        self.status: Status = "shadow" if section.shadow_units else "ramp"
        self.step = 0
        self.step_began_s, self.step_judged = now_s, 0
        self.measures = {measure: Comparison(section.margin) for measure in TESTED}
        self.seen = {measure: Seen() for measure in ("requests", *TESTED)}
        self.routed = [0, 0]  # units of this step: champion, challenger
        self.srm_before = 0.0  # log e-value of the steps that are over

    @property
    def share(self) -> float:
        """Share of all units that the arm is to have now (0..1)."""
        if self.status in ("shadow", *OVER):
            return 0.0
        return min(self.section.ramp[self.step], self.units)

    @property
    def srm_log_e(self) -> float:
        """log e-value against "units fall as asked", all steps together: a product of e-values of separate units."""
        if self.status == "by_hand":
            return self.srm_before
        asked = self.share / self.units
        return self.srm_before + (sample_ratio_log_e(self.routed, (1 - asked, asked)) if 0 < asked < 1 else 0.0)

    def add(self, events: Iterable[Event]) -> None:
        """Take what happened, in any order; a unit that was counted for a measure is passed over."""
        for event in events:
            if not self.seen[event.measure].add(event.unit):
                continue
            challenger = event.arm != CHAMPION
            if event.measure == "requests":
                self.routed[challenger] += 1
            else:
                self.measures[event.measure].add(challenger, event.outcome)

    def decide(self, now_s: float) -> Decided | None:
        """Bet on what came in and say what follows, None where all goes on as it is."""
        for comparison in self.measures.values():
            comparison.close_block()
        if self.status in OVER:
            return None
        return self._rolled_back() or self._mismatch() or self._promoted() or self._stepped(now_s)

    def by_hand(self) -> None:
        """Somebody has set another share: the ramp stops and nothing is promoted, but what is worse is stopped."""
        if self.status not in OVER:
            self.srm_before = self.srm_log_e
            self.status = "by_hand"

    def _rolled_back(self) -> Decided | None:
        alpha = self.section.alpha / len(self.section.guards) if self.section.guards else 0.0
        for guard in self.section.guards:
            if self.measures[guard].worse.rejects(alpha):
                return self._over("rolled_back", "rollback", guard)
        return None

    def _mismatch(self) -> Decided | None:
        """Units that do not fall as asked make every comparison worthless: the ramp stops, nothing is promoted."""
        if self.status in ("mismatch", "by_hand") or self.srm_log_e < -math.log(self.section.srm_alpha):
            return None
        self.status = "mismatch"
        detail = {"log_e": self.srm_log_e, "units": dict(zip((CHAMPION, self.arm), self.routed, strict=True))}
        return Decided("srm", "hold", "requests", self.share, self._finite(detail) | self.numbers())

    def _promoted(self) -> Decided | None:
        if self.status != "full" or self.section.promote == "never":
            return None
        comparison = self.measures[self.section.metric]
        shown = comparison.better if self.section.promote == "better" else comparison.not_worse
        return self._over("promoted", "promote", self.section.metric) if shown.rejects(self.section.alpha) else None

    def _stepped(self, now_s: float) -> Decided | None:
        judged = self.measures[self.section.metric].judged - self.step_judged
        needed = self.section.shadow_units if self.status == "shadow" else self.section.step_units
        if self.status not in ("shadow", "ramp") or judged < needed or now_s - self.step_began_s < self.section.step_s:
            return None
        self.srm_before, self.routed = self.srm_log_e, [0, 0]
        if self.status == "shadow":
            self.status = "ramp"
        elif self.step + 1 < len(self.section.ramp):
            self.step += 1
        else:
            self.status = "full"
            return None
        self.step_began_s, self.step_judged = now_s, self.measures[self.section.metric].judged
        return Decided("canary", "none", self.section.metric, self.share, {"step": self.step} | self.numbers())

    def _over(self, status: Status, decision: Decision, measure: str) -> Decided:
        self.status = status
        return Decided("experiment", decision, measure, self.share, self.numbers())

    def numbers(self) -> dict[str, Any]:
        """Everything that decisions are made from, JSON-ready."""
        measures = {name: comparison.numbers(self.section.alpha) for name, comparison in self.measures.items()}
        return {
            "experiment": self.name, "arm": self.arm, "status": self.status, "step": self.step, "share": self.share,
            "alpha": self.section.alpha, "measures": measures,
        } | self._finite({"srm_log_e": self.srm_log_e, "srm_limit": -math.log(self.section.srm_alpha)})  # fmt: skip

    @staticmethod
    def _finite(numbers: dict[str, Any]) -> dict[str, Any]:
        return {name: 1e9 if value == math.inf else value for name, value in numbers.items()}

    def plain(self, now_s: float) -> dict[str, Any]:
        """JSON-ready state; `restore` of a new Experiment takes it up. Units already seen are `seen_bits`."""
        return {
            "status": self.status, "step": self.step, "age_s": now_s - self.step_began_s,
            "step_judged": self.step_judged, "routed": self.routed, "srm_before": self.srm_before,
            "measures": {name: comparison.plain() for name, comparison in self.measures.items()},
        }  # fmt: skip

    def restore(self, plain: Mapping[str, Any], seen_bits: Mapping[str, bytes], now_s: float) -> None:
        """Go on where `plain` was taken. Raises KeyError on a state of another form."""
        self.status, self.step, self.step_judged = plain["status"], plain["step"], plain["step_judged"]
        self.step = min(self.step, len(self.section.ramp) - 1)
        self.step_began_s = now_s - plain["age_s"]
        self.routed, self.srm_before = list(plain["routed"]), plain["srm_before"]
        self.measures = {name: Comparison.restored(plain["measures"][name]) for name in TESTED}
        self.seen = {name: Seen(bits) for name, bits in seen_bits.items()}
