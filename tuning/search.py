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
    from ray import tune

    from tuning.budget import Budget
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
FINAL = "final"  # the point and the seed of a finalist, which no searcher draws
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

    section = recipe.search.model_dump(mode="json", exclude={"price_per_hour", "gpus", "finalists", "confirm_seeds"})
    warm = [] if prior.NONE in wanted.warm_from else list(wanted.warm_from)
    asked = [recipe.fingerprint(), objective.students(recipe), section, wanted.searcher, warm]
    return f"{recipe.name}-{digest(asked)[:8]}"


def run(recipe: Recipe, store: Store, wanted: Wanted, watcher: Watcher) -> Artifact:
    """Search, and return the artifact `search` with the best recipe, all trials, and the report (`tuning.results`).

    Raises InputError, and what the steps before the trials raise; what a trial raises is noted and ends that trial.
    """
    from tuning import finalists, objective, results
    from tuning.ledger import Ledger

    space, name = check(recipe, wanted, store), search_name(recipe, wanted)
    made = prepare(space, store, watcher)
    about = {"search": name, "recipe": recipe.model_dump(mode="json"), "searcher": wanted.searcher,
             "students": objective.students(recipe)}  # fmt: skip
    ledger = Ledger(store, name, about)
    left = wanted.trials - sum(trial["status"] not in ("running", "cut") for trial in ledger.trials)
    if left > 0 or finalists.missing(space, store, ledger):
        _go_on(space, store, ledger, wanted, left)
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


def _go_on(space: Space, store: Store, ledger: Ledger, wanted: Wanted, left: int) -> None:
    """The trials that are left, then the finalists, within one budget."""
    session.connect(space.recipe.resources)  # before anything imports Ray

    from tuning import finalists
    from tuning.budget import Budget

    budget = Budget(ledger, wanted.minutes, wanted.money, space.recipe.search.price_per_hour)
    if left > 0:
        _draw(space, store, ledger, wanted, budget, left)
    if not ledger.over and finalists.missing(space, store, ledger):
        _confirm(space, store, ledger, wanted, budget)


def _draw(space: Space, store: Store, ledger: Ledger, wanted: Wanted, budget: Budget, left: int) -> None:
    """Try what the searcher draws, and stop early what ASHA stops."""
    from tuning.searcher import Study

    learned = prior.learn(space, store, wanted.warm_from, ledger.name)
    ledger.learned(learned.facts())
    section = space.recipe.search
    first, known = beginning(space, ledger, learned)
    seed = section.seed + len(ledger.trials)
    asked = Asked(wanted.searcher, section.objectives, seed, section.startup, first, known)
    drawn = {"search_alg": Study(space, asked, ledger.notes), "scheduler": _asha(section), "num_samples": left}
    _fit(space, store, ledger, budget, _packed(space, wanted, drawn), {})
    _forget_unfinished(space, store, ledger)


def _confirm(space: Space, store: Store, ledger: Ledger, wanted: Wanted, budget: Budget) -> None:
    """Train the finalists with the further seeds, none of them stopped early, and note which could not be."""
    from ray import tune

    from tuning import finalists, objective

    wished = [{"point": point, "seed": seed} for point, seed in finalists.missing(space, store, ledger)]
    each = {FINAL: tune.grid_search(wished)}
    ended = _fit(space, store, ledger, budget, _packed(space, wanted, {}), each)
    for one in (ended[number] for number in range(len(ended))):
        assert one.config is not None
        point, seed = one.config[FINAL]["point"], one.config[FINAL]["seed"]
        if objective.find(space, store, point, seed) is None and not ledger.over:
            died = "its process died" if one.error is None else objective.reason(one.error)
            ledger.final_failed(point, seed, (one.metrics or {}).get("failed", died))


def _packed(space: Space, wanted: Wanted, drawn: Mapping[str, Any]) -> tune.TuneConfig:
    """As many trials at once as fit, or as are wanted."""
    from ray import tune

    nodes = session.nodes("train")
    return tune.TuneConfig(
        **drawn,
        reuse_actors=True,
        max_concurrent_trials=wanted.concurrent or places.at_once(places.of(space.recipe, nodes), nodes),
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _fit(
    space: Space, store: Store, ledger: Ledger, budget: Budget, packed: tune.TuneConfig, configs: dict[str, Any]
) -> tune.ResultGrid:
    """Run trials in their places until they or the budget end; `configs` where no searcher draws them."""
    from ray import tune

    os.environ.update(TUNE)
    logging.getLogger(ANALYSIS).setLevel(logging.ERROR)
    folder = store.workspace / "tune" / ledger.name
    tuner = tune.Tuner(
        placed_trial(space, store, places.of(space.recipe, session.nodes("train"))),
        param_space=configs,
        tune_config=packed,
        run_config=tune.RunConfig(
            name="search", storage_path=str(folder), verbose=0, stop=budget, callbacks=[_deaths(ledger)]
        ),
    )
    ended = tuner.fit()
    shutil.rmtree(folder, ignore_errors=True)
    return ended


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

    asked = config.get(FINAL, config)
    try:
        objective.run(space, store, asked["point"], lambda seen: tune.report(dict(seen)), asked.get("seed"))
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
