"""Searchers against chance: replayed on tables of real trials, and the trials themselves at one and two at once.

The tables (160 trials each, `searched.py`) are measured once and lie beside this file, so that a replay costs no
training: the searcher and Ray Tune's ASHA are those of `python -m tuning search`; only the trials are looked up.
A search's budget is counted in what its trials trained, in whole trials; all searchers run `PLACES` trials at once.
"""

from __future__ import annotations

import calendar
import heapq
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.search import Searcher

sys.path.insert(0, str(Path(__file__).parent))  # the script beside this file; benchmarks are no package
import searched

from cluster.recipe import Knob
from tuning import prior, search
from tuning.searcher import Study
from tuning.space import Space
from tuning.trials import Asked

ROOT = Path(__file__).resolve().parents[2]
REPLAYS, TRIALS, PLACES = 100, 40, 2
FIRST = 5  # trials that a prior is judged by
pytestmark = [pytest.mark.slow, pytest.mark.timeout(12 * 3600)]


@dataclass(frozen=True)
class Table:
    """A data set's grid: point (as a tuple of its values) -> its row."""

    rows: Mapping[tuple[float, ...], Mapping[str, float]]

    @classmethod
    def read(cls, name: str) -> Table:
        rows = searched.read(name)
        if len(rows) < 150:
            pytest.skip(f"{len(rows)} of {len(searched.grid())} trials of {name}: python {searched.__file__} {name}")
        return cls({tuple(row[knob] for knob in searched.KNOBS): row for row in rows})

    def row(self, point: Mapping[str, Any]) -> Mapping[str, float]:
        return self.rows[tuple(float(point[knob]) for knob in searched.KNOBS)]


class Grid(Space):
    """The space of a table; a point without a row is no recipe here, everything else is taken as one."""

    def __init__(self, table: Table) -> None:
        knobs = {name: Knob(choice=list(values)) for name, values in searched.KNOBS.items()}
        section = SimpleNamespace(knobs=knobs, grace_share=0.1, reduction=3)
        super().__init__(SimpleNamespace(search=section))  # type: ignore[arg-type]
        object.__setattr__(self, "table", table)

    def build(self, point: Mapping[str, Any]) -> Any:
        from cluster.errors import RecipeError

        try:
            return self.table.row(point)  # type: ignore[attr-defined]
        except KeyError:
            raise RecipeError("this trial was not measured") from None


def replay(table: Table, asked: Asked, trials: int, early: bool) -> list[tuple[float, float]]:
    """(budget spent, best quality so far) after every trial that finished; `early`: with ASHA.

    Trials report in the order in which PLACES workers would come to it, one report being one unit of time.
    """
    space, at = Grid(table), 0.0
    study, asha = Study(space, asked), search._asha(space.recipe.search) if early else None
    waiting: list[tuple[float, int, int, Any]] = []
    begun, spent, best, seen = 0, 0.0, float("-inf"), []
    while True:
        while begun < trials and len(waiting) < PLACES:
            config = study.suggest(str(begun))
            if config == Searcher.FINISHED:
                begun = trials
                break
            trial = SimpleNamespace(trial_id=str(begun), status="RUNNING", config=config)
            if asha is not None:
                asha.on_trial_add(None, trial)
            heapq.heappush(waiting, (at + 1, begun, 1, trial))
            begun += 1
        if not waiting:
            return seen
        at, number, report, trial = heapq.heappop(waiting)
        spent += 1 / searched.REPORTS
        row = table.row(trial.config["point"])
        result = {"progress": int(100 * report / searched.REPORTS), "agreement": row[f"agreement_{report - 1}"],
                  "training_iteration": report}  # fmt: skip
        if report == searched.REPORTS:
            best = max(best, row["quality"])
            seen.append((spent, best))
            names = ("quality", "latency_ms", "bytes")
            study.on_trial_complete(trial.trial_id, {**result, **{name: row[name] for name in names}})
        elif asha is not None and asha.on_trial_result(None, trial, result) == "STOP":
            study.on_trial_complete(trial.trial_id, result)
        else:
            heapq.heappush(waiting, (at + 1, number, report + 1, trial))


def budget_to(reached: Sequence[tuple[float, float]], target: float) -> float:
    """Budget at which `target` was reached first; infinite where it never was."""
    return next((spent for spent, best in reached if best >= target), float("inf"))


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist"])
def test_tpe_and_asha_reach_what_chance_ends_with_in_half_its_budget(name: str, record: Callable[..., None]) -> None:
    table = Table.read(name)
    shares: dict[str, list[float]] = {"tpe+asha": [], "random+asha": [], "tpe": []}
    for seed in range(REPLAYS):
        chance = replay(table, Asked("random", ["quality"], seed=seed), TRIALS, early=False)
        target, budget = chance[-1][1], chance[-1][0]
        for which, values in shares.items():
            kind, _, early = which.partition("+")
            # As many trials as its budget could pay for if ASHA stopped all that it may.
            own = replay(
                table, Asked(kind, ["quality"], seed=1000 + seed), 3 * TRIALS if early else TRIALS, bool(early)
            )
            values.append(budget_to(own, target) / budget)
    found = {which: median(values) for which, values in shares.items()}
    told = {which: {"median": found[which], "never": float(np.mean(np.isinf(values))),
                    "quartiles": [float(v) for v in np.quantile(np.minimum(values, 9.99), [0.25, 0.75])]}
            for which, values in shares.items()}  # fmt: skip
    rows = list(table.rows.values())
    spread = [min(row["quality"] for row in rows), max(row["quality"] for row in rows)]
    what = f"budget of TPE + ASHA to random search's best of {TRIALS} trials, median of {REPLAYS} replays on {name}"
    passed = found["tpe+asha"] <= 0.5
    record(f"search.{name}.budget", what, found["tpe+asha"], "share of random's budget", peer="random search",
           peer_value=1.0, bar="<= 0.5", passed=passed, trials=len(rows), searchers=told, quality=spread)  # fmt: skip
    assert passed, told


@pytest.mark.parametrize(("learned", "used"), [("fashion_mnist", "mnist"), ("mnist", "fashion_mnist")])
def test_what_another_search_learned_against_random_first_trials(
    learned: str, used: str, record: Callable[..., None]
) -> None:
    """Reported as it is, with no bar: the best of the first trials with the other set's best points, and without."""
    source, table = Table.read(learned), Table.read(used)
    earlier = np.random.default_rng(0).permutation(len(source.rows))[:TRIALS]
    rows = list(source.rows.values())
    trials = [{"point": {knob: rows[at][knob] for knob in searched.KNOBS}, "status": "done",
               "objectives": {"quality": rows[at]["quality"]}} for at in earlier]  # fmt: skip
    first = prior.best(trials)[:FIRST]
    ours = replay(table, Asked("tpe", ["quality"], first=first), FIRST, early=False)[-1][1]
    theirs = [
        replay(table, Asked("random", ["quality"], seed=seed), FIRST, early=False)[-1][1] for seed in range(REPLAYS)
    ]
    what = f"best of the first {FIRST} trials on {used}, begun with what a search on {learned} found"
    beaten = float(np.mean([one < ours for one in theirs]))
    record(f"search.prior.{used}", what, ours, "accuracy", peer="random first trials (median)",
           peer_value=median(theirs), better_than=beaten,
           equal=float(np.mean([one == ours for one in theirs])))  # fmt: skip


def seconds_of(store: Path, concurrent: int, trials: int, seed: int) -> float:
    """Wall time from the first trial's begin to the last one's end, of a random search without early stopping (s).

    The recipe as it is comes first in every search; all but the first find that trial in the store, and it is not
    counted.
    """
    found = set(store.glob("trial/*/manifest.json"))
    command = [sys.executable, "-m", "tuning", "search", "image_classification", "--store", str(store), "--json",
               "--searcher", "random", "--trials", str(trials + bool(found)), "--concurrent", str(concurrent),
               "--warm-from", "none"]  # fmt: skip
    knob = "{distill.stages.0.learning_rate: {log: [1.0e-3, 1.0e-2]}}"
    for value in (f"search.knobs={knob}", f"search.seed={seed}", "search.grace_share=0.99"):
        command += ["--set", value]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = [json.loads(path.read_text()) for path in set(store.glob("trial/*/manifest.json")) - found]
    assert len(made) == trials
    ends = [_epoch(one["created"]) for one in made]
    return max(ends) - min(end - one["seconds"] for end, one in zip(ends, made, strict=True))


def _epoch(stamp: str) -> float:
    return float(calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")))


BARE = """
import sys
from cluster.recipe import load
from cluster.store import Store
from tuning import objective
from tuning.space import Space
space, store = Space(load("image_classification", sys.argv[3:])), Store.open(sys.argv[1])
for point in eval(sys.argv[2]):
    objective.run(space, store, point, lambda seen: None)
"""


def test_two_trials_at_once_against_one_and_against_two_bare_processes(
    tmp_path: Path, record: Callable[..., None]
) -> None:
    """Run where nothing else does: python -m pytest tests/benchmarks/test_search.py -k two_trials."""
    trials, store = 8, tmp_path / "runs"
    seconds_of(store, 1, 1, seed=9)  # teacher, samples and curated set
    one, two = (seconds_of(store, concurrent, trials, seed=concurrent) for concurrent in (1, 2))
    knob = "distill.stages.0.learning_rate"
    rates = [[0.0011 + 0.001 * (2 * number + half) for number in range(trials // 2)] for half in (0, 1)]
    changes = [f"search.knobs={{{knob}: {{log: [1.0e-3, 1.0e-2]}}}}", "search.grace_share=0.99"]
    started = time.perf_counter()
    bare = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", BARE, str(store), repr([{knob: rate} for rate in own]), *changes],
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for own in rates
    ]  # fmt: skip
    assert [process.wait() for process in bare] == [0, 0]
    alone = time.perf_counter() - started
    passed = one / two >= 1.3 or alone / two >= 0.95
    record("search.concurrent", f"{trials} trials, two at once over one at a time", one / two, "x",
           peer="two bare processes", peer_value=one / alone, bar=">= 1.3, or >= 0.95 of two bare processes",
           passed=passed, seconds={"one": one, "two": two, "bare": alone})  # fmt: skip
    assert passed
