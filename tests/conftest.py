"""Fixtures that every folder's tests share: a small valid recipe, an empty store, and a fresh Python process."""

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import session
from cluster.recipe import Recipe, ResourcesSection
from cluster.store import Artifact, Store

ROOT = Path(__file__).resolve().parents[1]

SMALL_RECIPE: dict[str, Any] = {
    "name": "small",
    "task": "text_classification",
    "data": {"source": "table", "train": "train.parquet", "test": "test.parquet"},
    "teacher": {"architecture": "encoder"},
    "student": {"architecture": "encoder", "params": {"layers": 2}},
    "distill": {
        "stages": [
            {"name": "soft_labels", "epochs": 2, "learning_rate": 0.003, "losses": [{"name": "kl"}]},
            {"name": "hidden_states", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "kl"}, {"name": "mse"}]},
        ]
    },
    "promote": {"model_name": "small"},
}


def pytest_configure() -> None:
    """Ray reads its variables when it is first imported, and some tests import it before there is a cluster."""
    session.prepare_environment("embedded")


@pytest.fixture
def recipe_values() -> dict[str, Any]:
    """The smallest recipe that loads, as plain values that a test may change."""
    return copy.deepcopy(SMALL_RECIPE)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder of its own."""
    return Store.open(tmp_path / "store")


@pytest.fixture
def start_python() -> Callable[..., "subprocess.Popen[str]"]:
    """Start `python -c CODE ARGUMENTS` from the repository root with pipes for stdout and stderr."""

    def start(code: str, *arguments: object, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        inherited = {**os.environ, **environment}
        return subprocess.Popen(
            command, cwd=ROOT, text=True, env=inherited, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    return start


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[ResourcesSection]:
    """The one embedded Ray cluster of a test run: a cold start costs ten seconds, so all tests share it."""
    resources = ResourcesSection(cpus=2)
    session.connect(resources)
    yield resources
    session.disconnect()


VISUAL_RECIPE: dict[str, Any] = {
    "name": "visual",
    "task": "visual_qa",
    "data": {"source": "digits", "params": {"validation": 72, "test": 40}},
    "teacher": {"architecture": "omni_moe", "params": {"layers": 2, "hidden_size": 48, "vision_layers": 2}},
    "student": {"architecture": "omni_moe", "params": {"layers": 2, "hidden_size": 32, "heads": 2, "kv_heads": 2}},
    "distill": {"stages": [{"name": "one", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "forward_kl"}]}]},
    "export": {"scheme": "exact"},
    "promote": {"model_name": "visual"},
}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Store, Artifact]:
    """The bundle that `jobs export` makes of an untrained student and teacher: random weights, everything else real."""
    import torch

    from jobs import distill, export, fit, tasks

    recipe, store = Recipe.parse(VISUAL_RECIPE), Store.open(tmp_path_factory.mktemp("exported"))
    task = tasks.of(recipe)
    for seed, (step, section) in enumerate(((fit.STEP, recipe.teacher), (distill.STEP, recipe.student))):
        inputs = step.section(recipe)
        with store.draft(step.kind, step.id(recipe), section=inputs, parents={}, step_version=step.version) as draft:
            network = task.build(section, seed)
            for parameter in network.parameters():
                if parameter.ndim > 1:  # wide enough that answers differ from question to question
                    torch.nn.init.normal_(parameter, std=0.15, generator=torch.Generator().manual_seed(seed))
            (draft.path / "hf").mkdir()
            task.save(network, draft.path / "hf")
    return recipe, store, export.STEP.run(recipe, store)
