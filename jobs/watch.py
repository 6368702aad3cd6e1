"""Look after what is served: a verdict that quality dropped becomes a repaired challenger, and rounds that are due run.

An alarm pauses the model's promotion and distillation, mines the failing slices out of the traffic, continues the
champion on them, evaluates, and offers the result as challenger; then the model goes on. Where the gates are not passed
the pause stays, for a person to look at. A recipe whose student no round could repair is refused before anything is
paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cluster import pauses
from cluster.errors import GateFailed, InputError, RaydistillError
from cluster.pauses import Pause
from cluster.recipe import Recipe
from cluster.recipe.watch import Schedule
from cluster.registry import Registry
from cluster.store import Artifact, Store
from jobs import pipeline, promote
from jobs.after.watching import alarms, mining, rounds
from jobs.before import continued
from jobs.data.items import item_of
from jobs.step import run_name
from serving.bundle import predict
from serving.traffic.verdicts import Verdict

if TYPE_CHECKING:
    from jobs.pipeline import Watcher

log = logging.getLogger(__name__)
DAY_MS = 86_400_000
DAYS = {"hourly": 1 / 24, "daily": 1, "weekly": 7, "monthly": 30, "quarterly": 91}
MEASURE = ["fit", "generate", "curate", "distill", "export", "evaluate"]


def once(recipe: Recipe, store: Store, watcher: Watcher) -> dict[str, Any]:
    """Deal with the newest alarm: `alarm` (null: all is well, nothing is done) and what the round did (`repair`).

    Raises InputError as `check`, before anything has changed, GateFailed when the repaired student is not good enough
    (the model stays paused), StepFailed when the traffic says nothing about what failed, and what a step raises; the
    same call goes on from there.
    """
    model = recipe.promote.model_name
    verdict = alarms.alarm(store, model, recipe.watch)
    if verdict is None:
        marker = pauses.find(store, model)
        return {"alarm": None, "paused": None if marker is None else marker.reason}
    check(recipe)
    if (marker := pauses.find(store, model)) is None or marker.verdict_id != verdict.verdict_id:
        log.warning("alarm: %s", alarms.reason(verdict))
    pauses.pause(store, _marker(recipe, verdict))
    return {"alarm": alarms.reason(verdict), "verdict": verdict.verdict_id, **repair(recipe, store, watcher, verdict)}


def check(recipe: Recipe) -> None:
    """Refuse a recipe whose student no round could repair: one that cannot be continued. Raises MismatchError."""
    continued.check_task(recipe, "watch: no round can repair this student")


def repair(recipe: Recipe, store: Store, watcher: Watcher, verdict: Verdict) -> dict[str, Any]:
    """One round for a verdict: mine, pause, continue, evaluate, offer, resume. Raises as `once`."""
    model, marker = recipe.promote.model_name, _marker(recipe, verdict)
    mined = mining.mine(store, recipe, verdict)
    round_ = rounds.build(store, recipe, mined, f"{model}@{promote.CHAMPION}", verdict.verdict_id)
    own = rounds.recipe_of(round_)
    pauses.pause(store, Pause(**{**vars(marker), "run": run_name(own)}))
    handled = alarms.handled_by(store, model, verdict, recipe.watch) or [verdict.verdict_id]
    pipeline.check(own, store)
    try:
        record = pipeline.run(own, store, watcher, [*MEASURE, "promote"])
    except GateFailed:
        alarms.remember(store, model, handled)
        raise
    finally:
        # A run that was killed is no exception, and may go on; one that failed is for somebody to look at.
        if (left := pauses.find(store, model)) is not None and left.verdict_id == verdict.verdict_id:
            pauses.pause(store, marker)
    facts = store.get("promotion", record["artifacts"]["promotion"]).manifest.facts
    told = {
        "slices": [slice_["name"] for slice_ in mined.document["slices"]], "mined": len(mined.rows),
        "round": round_.id, "recipe": str(round_.path() / rounds.RECIPE), "run": record["run"],
        "challenger": {"model": model, "version": facts["version"], "alias": facts["alias"]},
        "held_out": _held_out(own, store, round_, record["artifacts"]["bundle"]),
    }  # fmt: skip
    alarms.remember(store, model, handled)
    pauses.resume(store, model)
    return {"repair": told}


def scheduled(recipe: Recipe, store: Store, watcher: Watcher, kind: str) -> dict[str, Any]:
    """A round of one kind now: evaluate or full run the recipe on its data as it is, incremental continues the
    champion on the hard requests since the last one. Raises InputError for another kind, and as `once`."""
    model, now = recipe.promote.model_name, _now_ms()
    since = max([0, *(at for name, at in alarms.state(store, model)["last"].items() if name == kind)])
    if kind not in Schedule.model_fields:
        raise InputError("--round names no kind of round", got=kind, expected=", ".join(Schedule.model_fields))
    if kind == "incremental":
        check(recipe)
    alarms.remember(store, model, last={kind: now})
    if kind == "incremental":
        champion = Registry.beside(store.workspace, recipe.promote.tracking_uri).alias(model, promote.CHAMPION)
        if champion is None:
            raise InputError("nothing is served", got=model, expected="a champion", hint="python -m jobs run RECIPE")
        window = {"window_start": since, "window_end": now}
        due = Verdict(now, "manual", model, str(champion.version), "scheduled round", "recurate", **window,
                      verdict_id=f"incremental-{now}")  # fmt: skip
        return {"round": kind, **repair(recipe, store, watcher, due)}
    pipeline.check(recipe, store)
    record = pipeline.run(recipe, store, watcher, MEASURE if kind == "evaluate" else [*MEASURE, "promote"])
    return {"round": kind, "run": record["run"], "artifacts": record["artifacts"]}


def due(schedule: Schedule, last: Mapping[str, int], now_ms: int) -> list[str]:
    """Kinds of round whose period has passed since the last one; a kind that was never begun starts counting first."""
    asked = {kind: getattr(schedule, kind) for kind in Schedule.model_fields if kind in last}
    return [kind for kind, every in asked.items() if every != "never" and now_ms - last[kind] >= DAYS[every] * DAY_MS]


def loop(recipe: Recipe, store: Store, watcher: Watcher, told: Callable[[Mapping[str, Any]], None]) -> None:
    """Read verdicts every `watch.poll_s` and do what is due, until the process is ended; `told` gets every round.

    What goes wrong in a round is logged, once for as long as that round goes wrong in the same way, and does not end
    the watch: the next verdict may be another.
    """
    model, failed = recipe.promote.model_name, dict[str, str]()
    begun = {kind: _now_ms() for kind in Schedule.model_fields if kind not in alarms.state(store, model)["last"]}
    alarms.remember(store, model, last=begun)
    while True:
        rounds_: dict[str, Callable[[], dict[str, Any]]] = {"once": lambda: once(recipe, store, watcher)}
        for kind in due(recipe.watch.schedule, alarms.state(store, model)["last"], _now_ms()):
            rounds_[kind] = lambda kind=kind: scheduled(recipe, store, watcher, kind)  # type: ignore[misc]
        for name, round_ in rounds_.items():
            try:
                done = round_()
                failed.pop(name, None)
                if done.get("alarm", "") is not None:
                    told(done)
            except RaydistillError as error:
                log.log(logging.DEBUG if str(error) == failed.get(name) else logging.ERROR, "watch: %s", error)
                failed[name] = str(error)
        time.sleep(recipe.watch.poll_s)


def resume(recipe: Recipe, store: Store) -> dict[str, Any]:
    """Let a paused model go on as it is, and count its alarms as dealt with."""
    model = recipe.promote.model_name
    marker = pauses.find(store, model)
    verdict = alarms.alarm(store, model, recipe.watch)
    if verdict is not None:
        alarms.remember(store, model, alarms.handled_by(store, model, verdict, recipe.watch))
    pauses.resume(store, model)
    return {"resumed": model, "was": None if marker is None else marker.reason}


def _held_out(recipe: Recipe, store: Store, round_: Artifact, bundle: str) -> dict[str, Any] | None:
    """Share of the failing slices' held-out rows that are answered as the reference has them, by the bundle that was
    continued and by the new one; None where no rows were held out."""
    rows, earlier = rounds.held_out(round_), continued.find(recipe, store)
    if not rows or earlier is None:
        return None
    folders = {"before": earlier.artifacts["bundle"].path(), "after": store.get("bundle", bundle).path()}
    told: dict[str, Any] = {"rows": len(rows)}
    for name, folder in folders.items():
        engine = predict.load(folder)
        right = [engine.predict([item_of(row)])[0].text == row["reference"] for row in rows]
        told[name] = sum(right) / len(right)
    return told


def _marker(recipe: Recipe, verdict: Verdict) -> Pause:
    return Pause(recipe.promote.model_name, _now_ms(), alarms.reason(verdict), verdict.verdict_id)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
