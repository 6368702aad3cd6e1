"""What a search found: the best recipe as a file that runs, the Pareto front, what mattered, and the page about it.

Shape legend: R validation rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from cluster import session
from cluster.recipe import Recipe
from cluster.store import Artifact, Store, artifact_id
from jobs.measure.bootstrap import Interval
from tuning import finalists, importance, objective, report
from tuning.finalists import Finalist
from tuning.ledger import DONE, Ledger
from tuning.prior import origin
from tuning.ranking import compared, ranked, rows_of
from tuning.space import Point, Space, same

BEST, RESULT, PAGE = "best.yaml", "search.json", "report.html"
VERSION = 3  # 2: says what the search began with; 3: what finalists are worth with other seeds


def write(space: Space, store: Store, ledger: Ledger, made: Sequence[Mapping[str, Any]]) -> Artifact:
    """The artifact `search` of what the ledger holds: `best.yaml`, `search.json`, `report.html`."""
    found = collect(space, store, ledger) | {"teacher": list(made)}
    section = {
        "search": ledger.name,
        "trials": [{key: one[key] for key in ("point", "status")} for one in ledger.trials],
        "confirmed": found["confirmed"],
        "failed_finals": found["failed_finals"],
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
    again = finalists.read(space, store, ledger)
    decided = _by_all_seeds(trials, again, space.recipe) if again else _by_one_seed(done, details, space.recipe)
    statuses = [one["status"] for one in trials]
    return {
        "search": ledger.name,
        "recipe": space.recipe.name,
        "searcher": ledger.about["searcher"],
        "objectives": objectives,
        "knobs": {name: knob.model_dump(mode="json", exclude_none=True) for name, knob in space.knobs.items()},
        "count": {status: statuses.count(status) for status in dict.fromkeys(statuses)},
        "trials": trials,
        "front": [one["number"] for one in front(done, objectives)],
        **decided,
        "confirmed": finalists.told(again, [_of(trials, one.point)["number"] for one in again], space.recipe),
        "failed_finals": [{**one, "number": _of(trials, one["point"])["number"]} for one in ledger.failed_finals],
        "importance": importance.of(space, done),
        "prior": ledger.prior,
        "rows": rows_of(details[done[0]["number"]]) if done else 0,
    }


def _by_one_seed(done: Sequence[Mapping[str, Any]], details: Mapping[int, Any], recipe: Recipe) -> dict[str, Any]:
    """`best`, `preset`, `gain` and `ties` as the trials themselves were measured."""
    best, preset = next(iter(ranked(done, recipe)), None), next((one for one in done if one["preset"]), None)
    return {
        "best": best,
        "preset": preset,
        "gain": None if best is None or preset is None else gain(details, best, preset, recipe.seed),
        "ties": [] if best is None else ties(details, best, recipe.seed),
    }


def _by_all_seeds(trials: Sequence[Mapping[str, Any]], again: Sequence[Finalist], recipe: Recipe) -> dict[str, Any]:
    """The same of finalists that were trained again, their objectives means over the further seeds."""
    named = [{**_of(trials, final.point), "objectives": final.objectives} for final in again]
    at = next(number for number, final in enumerate(again) if final.preset)
    lead = [finalists.difference(again[0], other, again, recipe.seed) for other in again]
    return {
        "best": named[0],
        "preset": named[at],
        "gain": judged(lead[at]),
        "ties": [one["number"] for one, own in zip(named[1:], lead[1:], strict=True) if (own["low"] or 0.0) <= 0],
    }


def _of(trials: Sequence[Mapping[str, Any]], point: Point) -> Mapping[str, Any]:
    return next(one for one in trials if same(one["point"], point))


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
    return judged(compared(details[best["number"]], details[preset["number"]], seed))


def judged(found: Interval) -> dict[str, Any]:
    """A difference with its verdict: better, or a tie."""
    return {**found, "verdict": "better" if found["low"] is not None and found["low"] > 0 else "tie"}


def ties(details: Mapping[int, Any], best: Mapping[str, Any], seed: int) -> list[int]:
    """Numbers of the other trials whose difference to the best may be chance (95 % interval over the same rows)."""
    top, found = details[best["number"]], []
    for number, detail in details.items():
        low = None if number == best["number"] else compared(top, detail, seed)["low"]
        if low is not None and low <= 0:
            found.append(number)
    return found


def as_yaml(recipe: Recipe) -> str:
    """The whole recipe as YAML; `cluster.recipe.load` reads the same recipe from it."""
    head = f"# Found by python -m tuning search {recipe.name}; every knob is written out. It runs as it is:\n"
    return f"{head}#   python -m jobs run THIS_FILE\n" + yaml.safe_dump(
        recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=120
    )
