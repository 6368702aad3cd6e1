"""A pilot before the money is spent: a few hundred rows at a few sizes say what the whole run will keep, take and cost.

`fit` is run as it is, because the run takes the teacher over; then students are made of growing parts of the rows.
Measured on validation rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from cluster import session
from cluster.errors import GateFailed, InputError
from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs import fit, generate, pipeline
from jobs.after import wording
from jobs.before import kept, pilot
from jobs.pipeline import Watcher
from jobs.step import run_name
from jobs.training.sampler import steps_of

DRAWS = 2000
SURE = 0.1  # retention's interval, high - low: no pilot is added to a narrower one
PART = 4  # no pilot is grown beyond one such part of all rows: the run itself would not be far
GO, NO_GO, UNSURE = "go", "no-go", "unsure"


@dataclass(frozen=True)
class Wanted:
    """Rows of the largest pilot, how many sizes there are, each half of the next, the optimizer steps that every pilot
    takes at least (or those of the whole run, where it takes fewer), and how many pilots, each of twice the rows of the
    largest, may be added while these leave the run's retention open."""

    rows: int = 800
    sizes: int = 4
    steps: int = 1200
    grow: int = 2


def check(recipe: Recipe, wanted: Wanted, store: Store) -> None:
    """Refuse before Ray starts what cannot be probed. Raises InputError."""
    if wanted.sizes < 3:
        raise InputError("a curve needs more sizes", got=wanted.sizes, expected="3 or more")
    if wanted.grow < 0:
        raise InputError("pilots cannot be taken away", got=wanted.grow, expected="0 or more to add")
    pipeline.check(recipe, store)


def run(recipe: Recipe, store: Store, wanted: Wanted, watcher: Watcher) -> dict[str, Any]:
    """Fit the teacher where it is not there, run the pilots, and return what they predict; also kept as a record.

    Raises InputError, and what the steps raise.
    """
    check(recipe, wanted, store)
    pipeline.run(recipe, store, watcher, ["fit"])
    session.connect(recipe.resources)
    pool = generate.candidates(recipe)
    whole = Whole(len(pool), pilot.origins(pool))
    sizes = sizes_of(whole.origins, wanted)
    longer = pilot.lengthened(recipe, whole.requests, wanted.steps)
    # The largest first: the smaller ones' rows are among its own, so the teacher answers every row once.
    pilots = {size: pilot.run(longer, store, size) for size in reversed(sizes)}
    found = predicted(recipe, store, whole, pilots)
    for size in grown(whole.origins, sizes[-1], wanted):
        if not open_yet(found):
            break
        pilots[size] = pilot.run(longer, store, size)
        found = predicted(recipe, store, whole, pilots)
    store.write_record(f"probes/{run_name(recipe)}", found)
    return found


@dataclass(frozen=True)
class Whole:
    """What the whole run asks for: requests, and training rows behind them (counts)."""

    requests: int
    origins: int


def sizes_of(origins: int, wanted: Wanted) -> list[int]:
    """Training rows of each pilot, rising: halves of the largest, which is never more than there are."""
    largest = min(wanted.rows, origins)
    return sorted({max(1, largest >> shift) for shift in range(wanted.sizes)})


def grown(origins: int, largest: int, wanted: Wanted) -> list[int]:
    """Training rows of each pilot that may be added, rising: each twice the one before."""
    sizes = [largest << shift for shift in range(1, wanted.grow + 1)]
    return [size for size in sizes if size * PART <= origins]


def open_yet(found: Mapping[str, Any]) -> bool:
    """Whether more rows could change what was `predicted`: retention's interval is wide, and not all of it passes."""
    retention = found["retention"]
    return bool(found["verdict"] != GO and retention["high"] - retention["low"] > SURE)


def predicted(recipe: Recipe, store: Store, whole: Whole, made: Mapping[int, Artifact]) -> dict[str, Any]:
    """What pilots, by their rows, say of the whole run: retention, seconds and cost with intervals, and the verdict."""
    pilots = dict(sorted(made.items()))
    found = {size: pilot.content(one) for size, one in pilots.items()}
    own = kept.of(recipe, store, list(found.values()), DRAWS, recipe.seed)
    retention = asdict(own.predict(list(found), whole.origins, recipe.seed))
    seconds = times(recipe, store, whole, pilots, found)
    hours = [sum(part[key] for part in seconds.values()) / 3600 for key in ("low", "value", "high")]
    asked = _asking(recipe, store, whole, list(pilots)[-1])
    price = recipe.search.price_per_hour
    cost = dict(zip(("low", "value", "high"), [asked + price * hour for hour in hours], strict=True))
    rows = [
        {"rows": size, "retention": float(value), "quality": one["quality"], "steps": one["steps"],
         "seconds": one["training_s"]}
        for (size, one), value in zip(found.items(), own.retention_N, strict=True)
    ]  # fmt: skip
    last = list(found.values())[-1]
    gates = judged(recipe, retention, (own.teacher, own.about), last["bytes"])
    return {
        "run": run_name(recipe), "rows": whole.origins, "requests": whole.requests, "validation_rows": own.rows,
        "teacher": own.teacher, "pilots": rows, "retention": retention, "seconds": seconds, "cost": cost,
        "not_predicted": ["evaluate", "promote"], "gates": gates, "verdict": verdict(gates),
    }  # fmt: skip


def times(
    recipe: Recipe, store: Store, whole: Whole, pilots: Mapping[int, Artifact], found: Mapping[int, Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Seconds of each step of the whole run on this machine: what a row or a step took in the pilots, slowest and
    fastest, times how many there will be. `distill` is the student by one worker; the control arm takes as long again
    and runs beside it where there is room."""
    teacher = store.get(fit.STEP.kind, fit.STEP.id(recipe)).manifest.seconds
    largest = list(pilots)[-1]
    packed = whole.requests * found[largest]["packed"] / _requests(recipe, store, largest)
    section = recipe.distill
    taught = sum(steps_of(stage, round(packed), section.batch_size) for stage in section.active)
    rates = [one["training_s"] / one["steps"] for one in found.values()]
    answering = [
        samples.manifest.seconds / asked
        for samples in (store.get("samples", pilot.steps(size)[0].id(recipe)) for size in pilots)
        if (asked := samples.manifest.facts["requested"] - samples.manifest.facts["reused"])
    ]
    measuring = [one["measuring_s"] for one in found.values()]
    return {
        "fit": {"low": teacher, "value": teacher, "high": teacher},
        "generate": _span(answering, whole.requests),
        "distill": _span(rates, taught),
        "export": _span(measuring, 1),
    }


def _span(rates: Sequence[float], count: float) -> dict[str, float]:
    """A fixed part makes few rows look slow, so the rate of the most rows (the last one) is the value."""
    if not rates:
        return {"low": 0.0, "value": 0.0, "high": 0.0}
    return {"low": 0.8 * min(rates) * count, "value": rates[-1] * count, "high": 1.25 * max(rates) * count}


def _requests(recipe: Recipe, store: Store, size: int) -> int:
    return int(store.get("samples", pilot.steps(size)[0].id(recipe)).manifest.facts["requested"])


def _asking(recipe: Recipe, store: Store, whole: Whole, size: int) -> float:
    """What the teacher charges for all requests (currency), from what the largest pilot was charged."""
    facts = store.get("samples", pilot.steps(size)[0].id(recipe)).manifest.facts
    asked = facts["requested"] - facts["reused"]
    return float(facts["cost"]) / asked * whole.requests if asked else 0.0


def judged(
    recipe: Recipe, retention: Mapping[str, float], teacher: tuple[float, float], size: int
) -> list[dict[str, Any]]:
    """The gates that a pilot can say something about: limit, value with interval, and go, no-go or unsure.

    teacher: its metric and the half of its interval.
    """
    gates, found = recipe.evaluate.gates, []

    def add(name: str, limit: float | None, low: float, value: float, high: float, sign: int) -> None:
        if limit is not None:
            sure, never = (low >= limit, high < limit) if sign > 0 else (high <= limit, low > limit)
            told = GO if sure else NO_GO if never else UNSURE
            found.append({"name": name, "limit": limit, "value": value, "low": low, "high": high, "verdict": told})

    add("retention_min", gates.retention_min, retention["low"], retention["value"], retention["high"], 1)
    value, about = teacher
    add("teacher_metric_min", gates.teacher_metric_min, value - about, value, value + about, 1)
    add("bytes_max", gates.bytes_max, size, size, size, -1)
    return found


def verdict(gates: Sequence[Mapping[str, Any]]) -> str:
    """no-go where one gate will fail, go where all will pass, else unsure."""
    told = {gate["verdict"] for gate in gates}
    return NO_GO if NO_GO in told else UNSURE if UNSURE in told else GO


def refuse_no_go(found: Mapping[str, Any]) -> None:
    """Raises GateFailed with the gates that the whole run will not pass."""
    failed = [(g["name"], g["value"], g["limit"]) for g in found["gates"] if g["verdict"] == NO_GO]
    if failed:
        raise GateFailed(failed)


def show(found: Mapping[str, Any]) -> RenderableType:
    """What the command prints for people."""
    table = Table("rows", "retention", "steps", "seconds", title=found["run"], title_justify="left", box=None)
    for one in found["pilots"]:
        table.add_row(f"{one['rows']}", wording.percent(one["retention"]), f"{one['steps']}", f"{one['seconds']:.1f}")
    own, took, cost = found["retention"], found["seconds"], found["cost"]
    interval = f"{wording.percent(own['low'])} to {wording.percent(own['high'])}"
    whole = {key: wording.seconds(sum(part[key] for part in took.values())) for key in ("low", "value", "high")}
    lines = [
        f"the whole run ({found['rows']} rows): retention {wording.percent(own['value'])}, 95 % interval {interval}",
        f"fit to export: {whole['value']} ({whole['low']} to {whole['high']}), one arm, this machine",
        f"cost: {cost['value']:.2f} ({cost['low']:.2f} to {cost['high']:.2f}); not in it: evaluate, promote",
        *(f"{g['name']} {g['limit']:g}: {g['value']:.4g} ({g['verdict']})" for g in found["gates"]),
        f"verdict: {found['verdict']}",
    ]
    return Group(table, *lines)
