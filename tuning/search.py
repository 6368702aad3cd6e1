"""The search itself: what all trials share is made once, trials run packed under Ray Tune, and the result is written.

The same call again goes on where a killed one stood; with more trials it goes further. Trials see validation rows
alone.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster import session
from cluster.canonical import digest
from cluster.errors import InputError, RaydistillError
from cluster.recipe import Recipe, SearchSection
from cluster.store import Artifact, Store
from jobs import generate, pipeline, tasks
from jobs.before import teacher_exam
from jobs.pipeline import Watcher
from tuning import places, prior
from tuning.places import Place
from tuning.prior import Prior
from tuning.space import Point, Space, same
from tuning.trials import KINDS, Asked, Ended

if TYPE_CHECKING:
    from tuning.ledger import Ledger

log = logging.getLogger(__name__)
ANALYSIS = "ray.tune.analysis.experiment_analysis"  # warns of every trial that wrote no CSV
# Said where somebody looks for it: with fewer places than members Tune lets one after the other run to its end, so that
# nobody is left to copy from; and a schedule is a knob like any other.
NO_PBT = (
    "population-based training exploits nothing unless its whole population trains at once, and trials are packed "
    "by the CPUs and GPUs there are: it is left out; a schedule is searched by its ends, "
    "losses.N.weight.from and losses.N.weight.to as knobs"
)
BEFORE = ["fit", "generate", "curate"]
# Read by Tune when a search begins: reports on the way have no quality yet; the search keeps its own record.
TUNE = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "20",  # a stopped trial clears its scratch before the actor takes the next
}


@dataclass(frozen=True)
class Wanted:
    """How far a search goes: trials in all, and where given minutes and money; by which searcher, how many at once
    (None: as many as fit), and what it learns from before it starts (`tuning.prior`)."""

    trials: int
    searcher: str = "tpe"
    minutes: float | None = None
    money: float | None = None
    concurrent: int | None = None
    warm_from: tuple[str, ...] = (prior.ALL,)


def check(recipe: Recipe, wanted: Wanted, store: Store) -> Space:
    """The recipe's space. Raises InputError before Ray starts where the search cannot work."""
    if wanted.searcher not in KINDS:
        hint = NO_PBT if wanted.searcher == "pbt" else None
        raise InputError("--searcher names none", got=wanted.searcher, expected=", ".join(KINDS), hint=hint)
    if wanted.money is not None and recipe.search.price_per_hour == 0:
        raise InputError("--money needs a price", got="search.price_per_hour 0", expected="what a trial's hour costs")
    space = Space(recipe)
    space.check()
    prior.check(store, wanted.warm_from)
    pipeline.check(recipe, store)
    for one in space.ends():  # sizes of a network are checked by its task
        tasks.of(one).check()
    return space


def search_name(recipe: Recipe, wanted: Wanted) -> str:
    """A search is named by its recipe, the rows behind it, its space and its searcher; how far it goes is no part."""
    from tuning import objective

    section = recipe.search.model_dump(mode="json", exclude={"price_per_hour", "gpus"})
    warm = [] if prior.NONE in wanted.warm_from else list(wanted.warm_from)
    asked = [recipe.fingerprint(), objective.students(recipe), section, wanted.searcher, warm]
    return f"{recipe.name}-{digest(asked)[:8]}"


def run(recipe: Recipe, store: Store, wanted: Wanted, watcher: Watcher) -> Artifact:
    """Search, and return the artifact `search` with the best recipe, all trials, and the report (`tuning.results`).

    Raises InputError, and what the steps before the trials raise; what a trial raises is noted and ends that trial.
    """
    from tuning import objective, results
    from tuning.ledger import Ledger

    space, name = check(recipe, wanted, store), search_name(recipe, wanted)
    made = prepare(space, store, watcher)
    about = {"search": name, "recipe": recipe.model_dump(mode="json"), "searcher": wanted.searcher,
             "students": objective.students(recipe)}  # fmt: skip
    ledger = Ledger(store, name, about)
    finished = sum(trial["status"] not in ("running", "cut") for trial in ledger.trials)
    if finished < wanted.trials:
        learned = prior.learn(space, store, wanted.warm_from, name)
        ledger.learned(learned.facts())
        session.connect(recipe.resources)
        _tune(space, store, ledger, learned, wanted, wanted.trials - finished)
    return results.write(space, store, ledger, made)


def prepare(space: Space, store: Store, watcher: Watcher) -> list[dict[str, Any]]:
    """Make what trials share: teacher, samples with soft labels, the curated set and the teacher's answers to
    validation rows; per set of samples its id, how often the teacher was run for it in this store, and the rows it
    answered."""
    made = []
    for recipe in space.shared():
        pipeline.run(recipe, store, watcher, BEFORE)
        teacher_exam.STEP.run(recipe, store)
        samples = store.get(generate.STEP.kind, generate.STEP.id(recipe))
        facts = samples.manifest.facts
        made.append({"samples": samples.id, "runs": samples.manifest.executions, "answered": facts["answered"]})
    return made


def beginning(space: Space, ledger: Ledger, learned: Prior) -> tuple[Sequence[Point], Sequence[Ended]]:
    """What is tried before the searcher draws (what was under way, the recipe as it is, and what the past says), and
    the ended trials that it knows of, each once; what is tried first is found in the store, not trained again."""
    points = [*ledger.unfinished, space.base, *learned.points]
    first = [point for index, point in enumerate(points) if not any(same(point, one) for one in points[:index])]
    own = list(ledger.known)
    here = [*first, *(ended.point for ended in own)]
    known = [ended for ended in learned.known if not any(same(ended.point, point) for point in here)]
    return first, [*own, *known]


def _tune(space: Space, store: Store, ledger: Ledger, learned: Prior, wanted: Wanted, trials: int) -> None:
    from ray import tune

    from tuning.budget import Budget
    from tuning.searcher import Study

    os.environ.update(TUNE)
    logging.getLogger(ANALYSIS).setLevel(logging.ERROR)
    section = space.recipe.search
    first, known = beginning(space, ledger, learned)
    seed = section.seed + len(ledger.trials)
    asked = Asked(wanted.searcher, section.objectives, seed, section.startup, first, known)
    folder = store.workspace / "tune" / ledger.name
    budget = Budget(ledger, wanted.minutes, wanted.money, section.price_per_hour)
    nodes = session.nodes("train")
    place = places.of(space.recipe, nodes)
    tuner = tune.Tuner(
        placed_trial(space, store, place),
        tune_config=tune.TuneConfig(
            search_alg=Study(space, asked, ledger.notes),
            scheduler=_asha(section),
            num_samples=trials,
            reuse_actors=True,
            max_concurrent_trials=wanted.concurrent or places.at_once(place, nodes),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="search", storage_path=str(folder), verbose=0, stop=budget, callbacks=[_deaths(ledger)]
        ),
    )
    tuner.fit()
    shutil.rmtree(folder, ignore_errors=True)
    _forget_unfinished(space, store, ledger)


def _asha(section: SearchSection) -> Any:
    """Asynchronous successive halving on agreement; the end of a trial is no rung, so nothing is stopped there."""
    from ray import tune

    return tune.schedulers.ASHAScheduler(
        time_attr="progress", metric="agreement", mode="max", max_t=100,
        grace_period=max(1, round(100 * section.grace_share)), reduction_factor=section.reduction,
    )  # fmt: skip


def placed_trial(space: Space, store: Store, place: Place) -> Any:
    """What Tune runs for a point, in the place that it takes."""
    from ray import tune

    return tune.with_resources(tune.with_parameters(_trial, space=space, store=store, place=place), places.group(place))


def _trial(config: Mapping[str, Any], space: Space, store: Store, place: Place) -> None:
    """What Tune runs in a reused actor: one trial; what goes wrong on purpose is reported, so that the actor lives."""
    places.hide_gpus(place)
    from ray import tune

    from tuning import objective

    try:
        objective.run(space, store, config["point"], lambda seen: tune.report(dict(seen)))
    except RaydistillError as error:
        tune.report({"failed": objective.reason(error)})


def _forget_unfinished(space: Space, store: Store, ledger: Ledger) -> None:
    """Remove what trials that did not finish left on this machine; finished ones have no scratch."""
    from tuning import objective

    for one in ledger.trials:
        if one["status"] != "done":
            aid = objective.STEP.id(space.build(one["point"]))
            shutil.rmtree(store.workspace / objective.STEP.kind / aid / "scratch", ignore_errors=True)


def _deaths(ledger: Ledger) -> Any:
    """Tune's callback that hears why a trial died that could not report it."""
    from ray import tune

    from tuning import objective

    class Deaths(tune.Callback):
        """See `_deaths`."""

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            """Note the reason."""
            error = trial.get_error()
            ledger.died(trial.trial_id, objective.reason(error) if error is not None else "its process died")

    return Deaths()
