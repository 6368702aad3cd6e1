"""Which point is tried next: an Optuna study behind Ray Tune's interface, told of every trial that ever ended here.

What Tune's own wrapper cannot do and a search here needs: points that are no recipe are drawn again, a point is never
trained twice, trials that were stopped early are told as such with what they had reached, and the points that a killed
search had under way come first. The same class is replayed on a table of trials by `tests/benchmarks/test_search.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState
from ray.tune.search import Searcher

from cluster.canonical import canonical_json
from cluster.errors import InputError
from tuning.space import Point, Space
from tuning.trials import DIRECTIONS, Asked, Ended, Notes

DRAWS_MAX = 100  # draws for one new point that is a recipe; a space that has none left ends the search


class Study(Searcher):
    """Ray Tune's searcher; its config of a trial is `{"point": ...}`."""

    def __init__(self, space: Space, asked: Asked, notes: Notes | None = None) -> None:
        super().__init__(metric="quality", mode="max")
        self.space, self.asked, self.notes = space, asked, notes or Notes()
        self.names = list(asked.objectives) if asked.kind == "motpe" else ["quality"]
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(sampler=_sampler(asked), directions=[DIRECTIONS[name] for name in self.names])
        self.distributions: dict[str, BaseDistribution] = space.distributions
        self.first = list(asked.first)
        self.refused: dict[str, str] = {}
        self.tried: dict[str, Ended | None] = {}
        self.running: dict[str, tuple[Point, optuna.Trial | None]] = {}
        for ended in asked.known:
            self.tried[_key(ended.point)] = ended
            inner = space.inner(ended.point)
            if inner is not None:
                self._add(inner, ended)

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """Tune's question whether it may say what is optimised: it was said when this was made."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """The next point as `{"point": ...}`; FINISHED where the space has no new recipe left."""
        while self.first:
            point = dict(self.first.pop(0))
            if _key(point) not in self.tried and self._is_recipe(point):
                return self._begin(trial_id, point, self._place(point))
        for _ in range(DRAWS_MAX):
            trial = self.study.ask(self.distributions)
            point = self.space.point(trial.params)
            if _key(point) not in self.tried and self._is_recipe(point):
                return self._begin(trial_id, point, trial)
            # Told a second time with its objectives, a point would count twice in the model of good ones.
            self.study.tell(trial, state=TrialState.FAIL)
        return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing is decided before a trial has ended."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Learn how a trial ended: with its objectives, stopped on the way, or failed."""
        if trial_id not in self.running:
            return
        point, trial = self.running.pop(trial_id)
        ended = _ended(point, None if error else result)
        self.tried[_key(point)] = ended
        if trial is not None:
            self._tell(trial, ended)
        self.notes.ended(trial_id, ended, result or {})

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the search's own record in the store is what it goes on from."""

    def restore(self, checkpoint_path: str) -> None:
        """See `save`."""

    def _begin(self, trial_id: str, point: Point, trial: optuna.Trial | None) -> dict[str, Any]:
        self.running[trial_id] = (point, trial)
        self.tried[_key(point)] = None
        self.notes.started(trial_id, point)
        return {"point": dict(point)}

    def _place(self, point: Point) -> optuna.Trial | None:
        """The study's trial of a given point; None where the point lies outside of the space, as a preset may."""
        inner = self.space.inner(point)
        if inner is None:
            return None
        self.study.enqueue_trial(inner)
        return self.study.ask(self.distributions)

    def _is_recipe(self, point: Point) -> bool:
        try:
            self.space.build(point)
        except InputError as error:
            self.refused[_key(point)] = str(error)
            return False
        return True

    def _tell(self, trial: optuna.Trial, ended: Ended | None) -> None:
        if ended is not None and ended.objectives is not None:
            self.study.tell(trial, [ended.objectives[name] for name in self.names])
        elif ended is not None and ended.stopped is not None and len(self.names) == 1:
            progress, agreement = ended.stopped
            trial.report(agreement, progress)
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, state=TrialState.FAIL)

    def _add(self, inner: Mapping[str, Any], ended: Ended) -> None:
        """Enter a trial that was not asked for here."""
        values = None if ended.objectives is None else [ended.objectives[name] for name in self.names]
        state, seen = TrialState.COMPLETE if values else TrialState.FAIL, {}
        if ended.stopped is not None and len(self.names) == 1:
            state, seen = TrialState.PRUNED, {ended.stopped[0]: ended.stopped[1]}
        self.study.add_trial(
            optuna.create_trial(
                state=state,
                values=values,
                params=dict(inner),
                distributions=self.distributions,
                intermediate_values=seen,
            )
        )


def _ended(point: Point, result: Mapping[str, Any] | None) -> Ended:
    if result and "quality" in result:
        return Ended(point, objectives={name: float(result[name]) for name in DIRECTIONS if name in result})
    if result and "agreement" in result:
        return Ended(point, stopped=(int(result["progress"]), float(result["agreement"])))
    return Ended(point)


def _key(point: Point) -> str:
    return canonical_json(dict(point))


def _sampler(asked: Asked) -> optuna.samplers.BaseSampler:
    if asked.kind == "random":
        return optuna.samplers.RandomSampler(seed=asked.seed)
    return optuna.samplers.TPESampler(seed=asked.seed, n_startup_trials=asked.startup)
