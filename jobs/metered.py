"""A run's numbers for Prometheus: rows and tokens a second, loss terms, kept share, cache hits, and what stands still.

Read from the files that steps leave for `jobs.progress` and from finished manifests, by the driver alone: nothing is
counted twice when a worker is started again, and no step knows of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cluster import logs, metrics
from cluster.errors import StepFailed
from cluster.store import Artifact
from jobs import progress
from jobs.data import tally
from jobs.pipeline import Watcher
from jobs.training import health

log = logging.getLogger(__name__)

EVERY_S = 5.0
OTHER = "other"


class Metered:
    """A `jobs.pipeline.Watcher` that tells another one what it hears, and Prometheus too.

    A context: leaving it on an error counts the step that failed, by reason.
    """

    def __init__(self, inner: Watcher, run: str) -> None:
        self._inner, self._run = inner, run
        self._verb = ""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()
        if error is not None and self._verb:
            metrics.counter("steps_failed").inc(tags={"run": self._run, "step": self._verb, "reason": reason_of(error)})

    def started(self, verb: str, scratch: list[str]) -> None:
        """A verb begins: look into its scratch folders every few seconds until it ends."""
        self._inner.started(verb, scratch)
        if logs.as_json():  # else the progress line says it
            log.info("%s begins", verb, extra={"step": verb})
        self._verb, self._over = verb, threading.Event()
        look = Look(self._run, verb, [Path(one) for one in scratch])
        self._thread = threading.Thread(target=_watch, args=(look, self._over), name="metrics", daemon=True)
        self._thread.start()

    def finished(self, verb: str, artifacts: list[Artifact], seconds: float, reused: bool) -> None:
        """A verb is done: what its manifests say of rows."""
        self._stop()
        self._verb = ""
        self._inner.finished(verb, artifacts, seconds, reused)
        if logs.as_json():
            made = {artifact.kind: artifact.id for artifact in artifacts}
            log.info(
                "%s is done",
                verb,
                extra={"step": verb, "seconds": round(seconds, 3), "artifacts": made, "reused": reused},
            )
        metrics.gauge("step_seconds").set(seconds, tags={"run": self._run, "step": verb})
        for artifact in artifacts:
            for name, labels, value in told(self._run, artifact.kind, artifact.manifest.facts):
                metrics.gauge(name).set(value, tags=labels)

    def _stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


class Look:
    """What a running step's files say, as gauge values, one look after the other."""

    def __init__(self, run: str, verb: str, scratch: Sequence[Path]) -> None:
        self._run, self._verb, self._scratch = run, verb, scratch
        self._began = time.monotonic()
        self._moved: dict[str, tuple[Any, float]] = {}
        self._tally: tuple[float, dict[str, float]] | None = None

    def values(self, now: float) -> list[tuple[str, dict[str, str], float]]:
        """Return (metric, labels, value) at this moment of a monotonic clock (s)."""
        step = {"run": self._run, "step": self._verb}
        found = [("step_seconds", step, now - self._began)]
        for path in sorted(path for folder in self._scratch for path in folder.glob("*.progress")):
            found += self._part(path, now)
        return found + self._rates(now)

    def _part(self, path: Path, now: float) -> list[tuple[str, dict[str, str], float]]:
        seen = progress.read(path)
        if seen is None:
            return []
        part = {"run": self._run, "step": self._verb, "part": path.stem}
        at = (seen["stage"], seen["step"])
        before = self._moved.get(path.stem)
        if before is None or before[0] != at:
            before = self._moved[path.stem] = (at, now)
        found = [("step_still_s", part, now - before[1])]
        if seen["steps"]:
            found.append(("step_done_share", part, seen["step"] / seen["steps"]))
        if seen["loss"] is not None:
            labels = {"run": self._run, "part": path.stem, "stage": str(seen["stage"])}
            found.append(("loss", {**labels, "term": "total"}, float(seen["loss"])))
            for term, (value, share) in seen["terms"].items():
                found.append(("loss", {**labels, "term": term}, float(value)))
                found.append(("loss_share", {**labels, "term": term}, float(share)))
        return found

    def _rates(self, now: float) -> list[tuple[str, dict[str, str], float]]:
        """Rows and tokens a second since the look before, from the teachers' tallies."""
        folders = [folder for scratch in self._scratch for folder in scratch.glob("*/tally")]
        if not folders:
            return []
        counts, before = tally.total(*folders), self._tally
        self._tally = (now, counts)
        if before is None or now <= before[0]:
            return []
        step, seconds = {"run": self._run, "step": self._verb}, now - before[0]
        return [
            (f"{name}_per_s", step, max(0.0, counts[name] - before[1][name]) / seconds) for name in ("rows", "tokens")
        ]


def told(run: str, kind: str, facts: Mapping[str, Any]) -> list[tuple[str, dict[str, str], float]]:
    """Return (metric, labels, value) of a finished artifact."""
    if kind == "samples":
        rows = {"step": "generate", "run": run}
        found = [("rows", {**rows, "outcome": "answered"}, float(facts["answered"]))]
        found += [("rows", {**rows, "outcome": why}, float(count)) for why, count in facts["dead_letters"].items()]
        share = facts["reused"] / facts["requested"] if facts["requested"] else 0.0
        return [*found, ("cache_hit_share", {"run": run}, share)]
    if kind == "curated":
        rows = {"step": "curate", "run": run}
        found = [("rows", {**rows, "outcome": "kept"}, float(facts["kept"]))]
        found += [("rows", {**rows, "outcome": why}, float(count)) for why, count in facts["reasons"].items()]
        return [*found, ("kept_share", {"run": run}, facts["kept"] / facts["in"] if facts["in"] else 0.0)]
    return []


def reason_of(error: BaseException) -> str:
    """Return why a training was given up (`jobs.training.health`), `other` for everything else."""
    hint = error.hint if isinstance(error, StepFailed) and error.hint else ""
    return next((status for status, advice in health.ADVICE.items() if hint.startswith(advice)), OTHER)


def _watch(look: Look, over: threading.Event) -> None:
    while not over.wait(EVERY_S):
        for name, labels, value in look.values(time.monotonic()):
            metrics.gauge(name).set(value, tags=labels)
