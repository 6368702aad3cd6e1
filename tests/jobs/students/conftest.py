"""A tiny fitted-looking teacher of each architecture that students are cut from, on rows written for it."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe import Recipe
from jobs import tasks
from jobs.training.students.source import Source

WORDS = {"fruit": "apple pear plum grape", "metal": "iron gold zinc lead", "tree": "oak elm ash fir"}
TEACHERS: dict[str, dict[str, Any]] = {
    "encoder": {"layers": 4, "hidden_size": 32, "heads": 4, "inner_size": 48, "dropout": 0.0},
    "decoder": {"layers": 4, "hidden_size": 32, "heads": 4, "kv_heads": 2, "head_dim": 8, "inner_size": 48},
}


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Training and test file: short lines of a class's words."""
    folder, files = tmp_path_factory.mktemp("rows"), {}
    for split, count in (("train", 20), ("test", 4)):
        files[split] = str(folder / f"{split}.csv")
        with Path(files[split]).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for number in range(count):
                for label, words in WORDS.items():
                    own = words.split()
                    writer.writerow([f"some {own[number % 4]} and {own[number // 4 % 4]} {split} {number}", label])
    return files


@pytest.fixture
def recipe_of(rows: dict[str, str], letters: str) -> Callable[..., Recipe]:
    """A recipe of an architecture whose student starts as `init` says."""

    def make(architecture: str, init: dict[str, Any] | None) -> Recipe:
        texts = architecture == "encoder"
        teacher = {"weights": letters} if texts else {"params": TEACHERS[architecture]}
        stage = {"name": "one", "epochs": 1, "learning_rate": 0.001, "losses": [{"name": "forward_kl"}]}
        return Recipe.parse({
            "name": "cut", "task": "text_classification" if texts else "text_generation",
            "data": {"source": "table", **rows, "params": {"max_tokens": 32} | ({} if texts else {"vocabulary": 300})},
            "teacher": {"architecture": architecture} | teacher,
            "student": {"architecture": architecture} | ({} if init is None else {"init": init}),
            "fit": {"enabled": False}, "distill": {"stages": [stage]}, "promote": {"model_name": "cut"},
        })  # fmt: skip

    return make


@pytest.fixture
def source_of(recipe_of: Callable[..., Recipe]) -> Callable[[str], Source]:
    """An unfitted teacher of an architecture, with rows."""

    def make(architecture: str) -> Source:
        recipe = recipe_of(architecture, None)
        task = tasks.of(recipe)
        return Source(task, task.build(recipe.teacher, 0), 0)

    return make
