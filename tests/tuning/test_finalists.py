"""The best trials again with other seeds: which they are, what they are worth, and when one is better than another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.errors import InputError
from cluster.recipe import load
from cluster.store import Store
from jobs.before.worth import Worth, facts
from tuning import finalists, objective, report, results
from tuning.finalists import Finalist
from tuning.ledger import Ledger
from tuning.space import same

RATE = "distill.stages.0.learning_rate"
ROWS = 1000


def finalist(*shares: float, preset: bool = False) -> Finalist:
    """One whose students answer these shares of the same rows, each its own rows wrong."""
    rng = np.random.default_rng(round(sum(shares) * 1e6))
    rights = [rng.permutation(np.arange(ROWS) < round(share * ROWS)) for share in shares]
    return Finalist({"a": sum(shares)}, preset, [facts(Worth(float(one.mean()), 1.0, 10, one)) for one in rights])


def verdict(*both: Finalist) -> str:
    return str(results.judged(finalists.difference(both[0], both[1], both, 0))["verdict"])


def test_a_finalist_is_better_only_by_more_than_seeds_and_rows_differ() -> None:
    plain = finalist(0.80, 0.81, 0.79)
    assert verdict(finalist(0.90, 0.91, 0.89), plain) == "better"
    assert verdict(finalist(0.805, 0.815, 0.80), plain) == "tie"
    # As many points apart as in the first pair, and so are the seeds of one finalist.
    assert verdict(finalist(0.99, 0.90, 0.81), plain) == "tie"
    assert verdict(plain, plain) == "tie"


def test_the_interval_is_the_equation_of_the_module() -> None:
    # All rows alike: nothing of the difference is the rows'.
    def sure(*shares: float) -> Finalist:
        trials = [{**facts(Worth(share, 1.0, 10, np.ones(10, bool)))} for share in shares]
        return Finalist({}, False, trials)

    one, other = sure(0.9, 0.8), sure(0.6, 0.4)
    found = finalists.difference(one, other, [one, other], 0)
    error = ((0.005 + 0.02) / 2) ** 0.5  # 2 s^2 / 2 with s^2 the mean of both variances
    assert found["value"] == pytest.approx(0.35)
    assert found["high"] == pytest.approx(0.35 + 4.302653 * error)  # Student's t of 2 degrees at .975
    assert found["low"] == pytest.approx(0.35 - 4.302653 * error)


@pytest.fixture(scope="module")
def ledger(prepared: Any) -> Ledger:
    """The recipe as it was, two finished trials and one that was stopped."""
    ledger = Ledger(prepared.store, "finalists", {"searcher": "tpe"})
    for rate in (None, 0.006, 0.004):
        point = dict(prepared.space.base) | ({} if rate is None else {RATE: rate})
        made = objective.outcome(objective.run(prepared.space, prepared.store, point, lambda seen: None))
        own = {name: made[name] for name in ("quality", "latency_ms", "bytes")}
        ledger.trials.append({"point": point, "status": "done", "trial": made["trial"], "objectives": own})
    stopped = {"point": {**prepared.space.base, RATE: 0.001}, "status": "stopped", "progress": 11, "agreement": 0.1}
    ledger.trials.append(stopped)
    return ledger


def with_seeds(prepared: Any, ledger: Ledger, seeds: Sequence[int]) -> None:
    for point in finalists.points(prepared.space, ledger):
        for seed in seeds:
            objective.run(prepared.space, prepared.store, point, lambda seen: None, seed)


def test_finalists_name_the_best_by_seeds_that_chose_nothing(prepared: Any, ledger: Ledger) -> None:
    space, store = prepared.space, prepared.store
    before = results.collect(space, store, ledger)
    assert before["confirmed"] is None and finalists.missing(space, store, ledger)
    chosen = finalists.points(space, ledger)
    assert len(chosen) == 3 and same(chosen[-1], space.base)
    objective.run(space, store, space.base, lambda seen: None, 1)
    objective.run(space, store, space.base, lambda seen: None, 2)
    assert finalists.missing(space, store, ledger) == [(point, seed) for point in chosen[:2] for seed in (1, 2)]
    assert finalists.read(space, store, ledger) == [], "the recipe as it was has nothing to compare with"
    with_seeds(prepared, ledger, [1, 2])
    assert not finalists.missing(space, store, ledger)
    found = results.collect(space, store, ledger)
    means = [one["objectives"]["quality"] for one in found["confirmed"]["finalists"]]
    assert means == sorted(means, reverse=True) and found["confirmed"]["seeds"] == [1, 2]
    assert found["best"]["objectives"]["quality"] == means[0] and found["preset"]["preset"]
    assert found["gain"]["value"] == pytest.approx(means[0] - found["preset"]["objectives"]["quality"])
    # Trials keep what they were measured as; another seed is another trial.
    assert found["trials"] == before["trials"]
    assert objective.find(space, store, space.base, 1) != objective.find(space, store, space.base)
    page = report.render(found | {"teacher": []})
    assert "Trained again with 2 other seeds" in page or "Nothing that was tried is better" in page
    assert all(line in page for line in report.finals(found)) and len(report.finals(found)) == 3


def test_one_that_fails_with_another_seed_is_no_finalist_and_is_named(prepared: Any, ledger: Ledger) -> None:
    store, one = prepared.store, dict(prepared.space.base) | {RATE: 0.0061}
    own = Ledger(store, "failing", {"searcher": "tpe"})
    own.trials += [dict(trial) for trial in ledger.trials]
    own.trials[1] |= {"point": one, "objectives": {**own.trials[1]["objectives"], "quality": 1.0}}
    with_seeds(prepared, ledger, [1, 2])
    assert finalists.missing(prepared.space, store, own)
    own.final_failed(one, 1, "diverged: too fast")
    assert finalists.missing(prepared.space, store, own) == [(one, 2)]
    own.final_failed(one, 2, "its process died")
    own.final_failed(one, 2, "its process died")  # tried again by a further call
    assert [failed["seed"] for failed in own.failed_finals] == [1, 2]
    assert not finalists.missing(prepared.space, store, own)
    found = results.collect(prepared.space, store, own)
    assert [one["number"] for one in found["confirmed"]["finalists"] if one["number"] == 1] == []
    assert "trial 2 failed with seed 1: diverged: too fast" in report.finals(found)


def test_no_finalists_where_none_are_wanted_or_nothing_else_was_finished(
    prepared: Any, ledger: Ledger, tmp_path: Path
) -> None:
    recipe = prepared.space.recipe
    none = recipe.model_copy(update={"search": recipe.search.model_copy(update={"confirm_seeds": 0})})
    assert finalists.points(type(prepared.space)(none), ledger) == []
    alone = Ledger(Store.open(tmp_path), "alone", {})
    alone.trials.append(dict(ledger.trials[0]))
    assert finalists.points(prepared.space, alone) == []


def test_a_single_seed_is_refused() -> None:
    with pytest.raises(InputError, match="one seed does not show"):
        load("digits", ["search.confirm_seeds=1"])
