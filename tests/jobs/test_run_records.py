"""A run's record is of one run: what is of other rows lies under a name of its own."""

from collections.abc import Callable
from typing import Any

import pytest

from cluster.recipe import Recipe
from cluster.store import Store
from jobs import pipeline
from jobs.step import run_name


@pytest.fixture
def recipe(tiny_digits: Callable[..., Recipe]) -> Recipe:
    return tiny_digits()


def left(store: Store, recipe: Recipe, **changed: str) -> dict[str, Any]:
    """What a run of every step has left, but for some artifacts."""
    ids = {row["kind"]: row["id"] for row in pipeline.plan(recipe, store)} | changed
    record = {"run": run_name(recipe), "artifacts": ids, "seconds": {"fit": 1.0}}
    store.write_record(f"runs/{run_name(recipe)}", record)
    return record


def test_a_run_goes_on_with_its_own_record(store: Store, recipe: Recipe, quiet: Any) -> None:
    before = left(store, recipe)
    assert pipeline.run(recipe, store, quiet, [])["artifacts"] == before["artifacts"]
    assert store.records("runs/") == [f"runs/{run_name(recipe)}"]


def test_a_record_of_other_rows_under_the_same_name_is_kept_aside_and_not_mixed_in(
    store: Store, recipe: Recipe, quiet: Any
) -> None:
    before = left(store, recipe, teacher="0123456789abcdef")  # as of a file whose content has changed since
    assert pipeline.run(recipe, store, quiet, [])["artifacts"] == {}
    aside = [name for name in store.records("runs/") if name != f"runs/{run_name(recipe)}"]
    assert len(aside) == 1 and aside[0].startswith(f"runs/{run_name(recipe)}-")
    kept = store.read_record(aside[0])
    assert kept is not None and kept["artifacts"] == before["artifacts"] and f"runs/{kept['run']}" == aside[0]
