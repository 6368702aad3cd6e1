"""A tiny image recipe with a search space, and a store in which everything that trials share is made, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.recipe import Gates, Recipe, load
from cluster.store import Store
from jobs import curate, fit, generate
from jobs.before import teacher_exam
from tuning.space import Space

RATE, TEMPERATURE = "distill.stages.0.learning_rate", "distill.stages.0.losses.0.params.temperature"
KNOBS = (
    f"{{{RATE}: {{log: [1.0e-3, 3.0e-2]}}, {TEMPERATURE}: {{choice: [1.0, 2.0, 4.0]}}, "
    "student.params.stem: {choice: [4, 8]}, export.scheme: {choice: [static, fast]}}"
)
STAGE = "{name: %s, epochs: 0.1, min_steps: %d, learning_rate: 5.0e-3, losses: [%s]}"
TINY = [
    "teacher.params={stem: 8, widths: [8, 16], depths: [1, 1]}",
    "student.params={stem: 8, widths: [8, 16], strides: [1, 2]}",
    "fit.views={}",
    f"fit.stages=[{STAGE % ('fit', 60, '{name: cross_entropy}')}]",
    "generate.views={count: 1, shift: 0.1}",
    "generate.blocks=1",
    f"distill.stages=[{STAGE % ('one', 27, '{name: forward_kl, params: {temperature: 4.0}}')}]",
    "curate.filters=[{name: duplicate}]",
    f"search.knobs={KNOBS}",
    "search.latency_requests=20",
    *[f"evaluate.gates.{name}=null" for name in Gates.model_fields],
]


@pytest.fixture(scope="session")
def searched_recipe() -> Callable[..., Recipe]:
    """The tiny recipe; further overrides as arguments."""
    return lambda *overrides: load("image_classification", [*TINY, *overrides])


@pytest.fixture(scope="session")
def overrides() -> list[str]:
    """What makes it tiny, for a command line."""
    return TINY


@dataclass(frozen=True)
class Prepared:
    """A space and a store with teacher, samples, curated set and the teacher's answers to validation rows."""

    space: Space
    store: Store


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, searched_recipe: Callable[..., Recipe], in_process: Callable[[], Any]
) -> Prepared:
    """Made once per test run by the steps' real bodies, in this process."""
    recipe, store = searched_recipe(), Store.open(tmp_path_factory.mktemp("search") / "runs")
    with in_process():
        for step in (fit.STEP, generate.STEP, curate.STEP, teacher_exam.STEP):
            step.run(recipe, store)
    return Prepared(Space(recipe), store)
