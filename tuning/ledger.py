"""What a search has tried so far, as one record of the store: the driver writes it, a killed search goes on from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.store import Store
from tuning.space import Point
from tuning.trials import Ended, Notes

RUNNING, DONE, STOPPED, FAILED, CUT = "running", "done", "stopped", "failed", "cut"


class Ledger:
    """Trials in the order they were begun: `point`, `status`, and what is known of how it ended.

    status: done (`objectives`, `trial`), stopped early (`progress` percent, `agreement`), failed (`reason`), cut by the
    end of the budget, or still running when this was last written.
    """

    def __init__(self, store: Store, name: str, about: Mapping[str, Any]) -> None:
        """about: what names the search; kept in the record for whoever reads it later."""
        self.store, self.name = store, name
        record = store.read_record(f"searches/{name}") or {**about, "trials": []}
        self.about: dict[str, Any] = record
        self.trials: list[dict[str, Any]] = record["trials"]
        self.over = False  # the budget is spent: what ends now was cut, not judged
        self._running: dict[str, dict[str, Any]] = {}

    @property
    def prior(self) -> Mapping[str, Any] | None:
        """What was learned before the first trial (`tuning.prior`); None in a record from before that was noted."""
        found: Mapping[str, Any] | None = self.about.get("prior")
        return found

    def learned(self, prior: Mapping[str, Any]) -> None:
        """Note what this call begins with, beside what earlier calls began with. A point that was tried here already
        did not come from there: a run of this search's own best recipe says nothing new."""
        noted = {(one["kind"], one["name"]): one for one in (self.prior or {"sources": []})["sources"]}
        tried = [one["point"] for one in self.trials]
        for source in prior["sources"]:
            key = source["kind"], source["name"]
            points = list(noted[key]["points"]) if key in noted else []
            points += [point for point in source["points"] if point not in (*tried, *points)]
            if points or source["known"]:
                noted[key] = {**source, "points": points}
        self.about["prior"] = {**prior, "sources": list(noted.values())}
        self._write()

    @property
    def failed_finals(self) -> list[dict[str, Any]]:
        """Finalists that could not be trained with a further seed: `point`, `seed`, `reason`."""
        found: list[dict[str, Any]] = self.about.setdefault("failed_finals", [])
        return found

    def final_failed(self, point: Point, seed: int, reason: str) -> None:
        """Note it, once for a finalist and a seed: a search that is called again tries it again."""
        others = [one for one in self.failed_finals if (one["point"], one["seed"]) != (dict(point), seed)]
        self.failed_finals[:] = [*others, {"point": dict(point), "seed": seed, "reason": reason}]
        self._write()

    @property
    def notes(self) -> Notes:
        """For the searcher."""
        return Notes(self.started, self.ended)

    @property
    def known(self) -> Sequence[Ended]:
        """Trials that ended in an earlier call of the same search."""
        return [_ended(trial) for trial in self.trials if trial["status"] in (DONE, STOPPED, FAILED)]

    @property
    def unfinished(self) -> Sequence[Point]:
        """Points that were begun and not ended, in order."""
        return [trial["point"] for trial in self.trials if trial["status"] in (RUNNING, CUT)]

    def started(self, trial_id: str, point: Point) -> None:
        """Note a trial's begin; a point that is begun again takes the place of its earlier try."""
        self.trials[:] = [one for one in self.trials if one["point"] != dict(point)]
        self._running[trial_id] = {"point": dict(point), "status": RUNNING}
        self.trials.append(self._running[trial_id])
        self._write()

    def ended(self, trial_id: str, ended: Ended, result: Mapping[str, Any]) -> None:
        """Note how a trial ended."""
        trial = self._running[trial_id]
        if ended.objectives is not None:
            trial |= {"status": DONE, "objectives": dict(ended.objectives), "trial": result["trial"]}
        elif "failed" in result:
            trial |= {"status": FAILED, "reason": result["failed"]}
        elif ended.stopped is not None:
            status = CUT if self.over else STOPPED
            trial |= {"status": status, "progress": ended.stopped[0], "agreement": ended.stopped[1]}
        else:
            trial |= {"status": CUT} if self.over else {"status": FAILED, "reason": trial.get("reason") or "it died"}
        trial["seconds"] = float(result.get("time_total_s") or 0.0)
        self._write()

    def died(self, trial_id: str, why: str) -> None:
        """Note why a trial failed where it could not say so itself; comes before or after its end is noted."""
        if trial_id in self._running:
            self._running[trial_id]["reason"] = why
            self._write()

    def _write(self) -> None:
        self.store.write_record(f"searches/{self.name}", self.about)


def _ended(trial: Mapping[str, Any]) -> Ended:
    if trial["status"] == DONE:
        return Ended(trial["point"], objectives=trial["objectives"])
    if trial["status"] == STOPPED:
        return Ended(trial["point"], stopped=(trial["progress"], trial["agreement"]))
    return Ended(trial["point"])
