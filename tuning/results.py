"""What a search found: the best recipe as a file that runs, the Pareto front, what mattered, and the page about it.

Shape legend: R validation rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import yaml

from cluster import session
from cluster.recipe import Recipe
from cluster.store import Artifact, Store, artifact_id
from jobs.before import likely
from jobs.before.worth import right_of
from jobs.measure import bootstrap, next_tokens
from tuning import importance, objective, report
from tuning.ledger import DONE, Ledger
from tuning.prior import origin
from tuning.space import Space, same

BEST, RESULT, PAGE = "best.yaml", "search.json", "report.html"
DRAWS = 2000
VERSION = 2  # 2: says what the search began with


def write(space: Space, store: Store, ledger: Ledger, made: Sequence[Mapping[str, Any]]) -> Artifact:
    """The artifact `search` of what the ledger holds: `best.yaml`, `search.json`, `report.html`."""
    found = collect(space, store, ledger) | {"teacher": list(made)}
    section = {
        "search": ledger.name,
        "trials": [{key: one[key] for key in ("point", "status")} for one in ledger.trials],
    }
    aid = artifact_id("search", section, {}, VERSION)
    with store.draft(
        "search", aid, section=section, parents={}, step_version=VERSION, commit=session.commit()
    ) as draft:
        if not draft.done:
            if found["best"] is not None:
                (draft.path / BEST).write_text(as_yaml(space.build(found["best"]["point"])))
            (draft.path / RESULT).write_text(json.dumps(found, indent=1, allow_nan=False))
            (draft.path / PAGE).write_text(report.render(found))
            draft.note(trials=found["count"], best=None if found["best"] is None else found["best"]["objectives"])
    return draft.artifact


def content(search: Artifact) -> dict[str, Any]:
    """What `search.json` holds."""
    found: dict[str, Any] = json.loads((search.path() / RESULT).read_text())
    return found


def collect(space: Space, store: Store, ledger: Ledger) -> dict[str, Any]:
    """Trials, front, importance, the best one beside the recipe as it was, and what ties with it."""
    trials = [dict(one) | {"number": number} for number, one in enumerate(ledger.trials)]
    for one in trials:
        one["preset"] = same(one["point"], space.base)
        one["origin"] = None if one["preset"] or ledger.prior is None else origin(ledger.prior, one)
    done = [one for one in trials if one["status"] == DONE]
    details = {one["number"]: objective.content(store.get("trial", one["trial"])) for one in done}
    for number, found in details.items():
        trials[number]["curve"], trials[number]["seconds"] = found["curve"], found["seconds"]["all"]
    objectives = list(space.recipe.search.objectives)
    best, preset = choose(done, space.recipe), next((one for one in done if one["preset"]), None)
    statuses, seed = [one["status"] for one in trials], space.recipe.seed
    return {
        "search": ledger.name,
        "recipe": space.recipe.name,
        "searcher": ledger.about["searcher"],
        "objectives": objectives,
        "knobs": {name: knob.model_dump(mode="json", exclude_none=True) for name, knob in space.knobs.items()},
        "count": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "trials": trials,
        "front": [one["number"] for one in front(done, objectives)],
        "best": best,
        "preset": preset,
        "importance": importance.of(space, done),
        "gain": None if best is None or preset is None else gain(details, best, preset, seed),
        "ties": [] if best is None else ties(details, best, seed),
        "prior": ledger.prior,
        "rows": 0 if best is None else rows_of(details[best["number"]]),
    }


def choose(done: Sequence[Mapping[str, Any]], recipe: Recipe) -> Mapping[str, Any] | None:
    """The trial of the highest quality, of equal ones the fastest, then the smallest; one beyond the recipe's own gates
    for size or latency only where all are. None where no trial is done."""
    gates = recipe.evaluate.gates

    def rank(one: Mapping[str, Any]) -> tuple[bool, float, float, float]:
        found = one["objectives"]
        too_large = gates.bytes_max is not None and found["bytes"] > gates.bytes_max
        too_slow = gates.latency_p95_ms is not None and found["latency_ms"] > gates.latency_p95_ms
        return too_large or too_slow, -found["quality"], found["latency_ms"], found["bytes"]

    return min(done, key=rank, default=None)


def front(done: Sequence[Mapping[str, Any]], objectives: Sequence[str]) -> list[Mapping[str, Any]]:
    """Trials that no other one is at least as good as in every objective and better in one, best quality first."""

    def costs(one: Mapping[str, Any]) -> tuple[float, ...]:
        return tuple(-one["objectives"][name] if name == "quality" else one["objectives"][name] for name in objectives)

    def beaten(one: Mapping[str, Any]) -> bool:
        own = costs(one)
        others = [costs(other) for other in done]
        return any(all(a <= b for a, b in zip(other, own, strict=True)) and other != own for other in others)

    return sorted((one for one in done if not beaten(one)), key=costs)


def gain(details: Mapping[int, Any], best: Mapping[str, Any], preset: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Quality of the best trial over the recipe as it was, with its 95 % interval over the same validation rows, and
    the verdict: better, or a tie. The best of many looks better than it is on the rows it was chosen by."""
    found = compared(details[best["number"]], details[preset["number"]], seed)
    return {**found, "verdict": "better" if found["low"] is not None and found["low"] > 0 else "tie"}


def ties(details: Mapping[int, Any], best: Mapping[str, Any], seed: int) -> list[int]:
    """Numbers of the other trials whose difference to the best may be chance (95 % interval over the same rows)."""
    top, found = details[best["number"]], []
    for number, detail in details.items():
        low = None if number == best["number"] else compared(top, detail, seed)["low"]
        if low is not None and low <= 0:
            found.append(number)
    return found


def compared(one: Mapping[str, Any], other: Mapping[str, Any], seed: int) -> bootstrap.Interval:
    """Quality of a trial minus another's, with its interval over the same rows: the share that is right, or the
    likelihood of the true texts."""
    if "nll" in one:
        return next_tokens.compared(likely.read(one), likely.read(other), np.subtract, DRAWS, seed)
    return bootstrap.difference(right_of(one), right_of(other), DRAWS, seed)


def rows_of(trial: Mapping[str, Any]) -> int:
    """Validation rows that a trial was measured on (count)."""
    return len(trial["nll"]) if "nll" in trial else len(right_of(trial))


def as_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML; `cluster.recipe.load` reads the same recipe from it."""
    head = f"# Found by python -m tuning search {recipe.name}; every knob is written out. It runs as it is:\n"
    return f"{head}#   python -m jobs run THIS_FILE\n" + yaml.safe_dump(
        recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=120
    )
