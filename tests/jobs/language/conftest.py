"""A language small enough to learn in a test: a few texts, a tokenizer made of them, and networks of a few thousand
parameters."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.recipe import Recipe
from jobs.data.answers import Answerer, labels_of
from jobs.tasks.text_generation.task import TextGeneration
from jobs.training import table
from jobs.training.loop import Job

WORDS = [
    "the",
    "cat",
    "sat",
    "on",
    "a",
    "mat",
    "and",
    "the",
    "dog",
    "ran",
    "to",
    "red",
    "house",
    "by",
    "sea",
    "while",
    "one",
    "bird",
    "sang",
]
SIZES = {"layers": 2, "hidden_size": 32, "heads": 4, "kv_heads": 4, "head_dim": 8, "inner_size": 48}
RECIPE: dict[str, Any] = {
    "name": "language", "task": "text_generation",
    "data": {"source": "table", "params": {"max_tokens": 24, "vocabulary": 400, "max_new_tokens": 6}},
    "teacher": {"architecture": "decoder", "params": SIZES},
    "student": {"architecture": "decoder", "params": SIZES | {"layers": 1}},
    "fit": {"batch_size": 8, "stages": [
        {"name": "fit", "epochs": 1, "learning_rate": 0.003, "losses": [{"name": "cross_entropy"}]}]},
    "generate": {"batch_size": 16, "hidden_layer": -1, "labels": {"form": "sampled", "draws": 16}},
    "distill": {"batch_size": 8, "engine": {"checkpoint_every": 2}, "stages": [
        {"name": "one", "epochs": 1, "learning_rate": 0.003, "losses": [{"name": "sampled_cross_entropy"}]}]},
    "export": {"scheme": "exact"},
    "promote": {"model_name": "language"},
}  # fmt: skip


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet (40 texts, prompts and responses) and test.parquet (8)."""
    folder = tmp_path_factory.mktemp("texts")
    for split, count, start in (("train", 40, 0), ("test", 8, 1000)):
        rows = [" ".join(WORDS[(start + 7 * row + 3 * word) % 19] for word in range(20 + row)) for row in range(count)]
        columns = {"text": rows, "prompt": [row[:30] for row in rows], "response": [row[30:60] for row in rows]}
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return folder


@pytest.fixture
def language(texts: Path) -> Callable[..., Recipe]:
    """The tiny recipe, with changes as `**{"generate.labels.form": "dense"}`."""

    def make(**changes: Any) -> Recipe:
        values = copy.deepcopy(RECIPE)
        values["data"] |= {split: str(texts / f"{split}.parquet") for split in ("train", "test")}
        for path, value in changes.items():
            *folders, last = path.split(".")
            place = values
            for folder in folders:
                place = place.setdefault(folder, {}) if isinstance(place, dict) else place[int(folder)]
            place[last] = value
        return Recipe.parse(values)

    return make


@pytest.fixture
def labelled(tmp_path: Path) -> Callable[[Recipe], tuple[TextGeneration, Path, pa.Table, pa.Table]]:
    """Task, an untrained teacher's folder, and the answered training rows with their soft labels."""

    def make(recipe: Recipe) -> tuple[TextGeneration, Path, pa.Table, pa.Table]:
        task, folder = TextGeneration(recipe), tmp_path / "teacher"
        folder.mkdir(exist_ok=True)
        task.save(wide(task.build(recipe.teacher, 0)), folder)
        samples = Answerer(str(folder), recipe.generate, str(tmp_path / "tally"))(task.requests("train"))
        return task, folder, samples, labels_of(samples)

    return make


@pytest.fixture
def distilling(tmp_path: Path, labelled: Callable[..., Any]) -> Callable[[Recipe], Job]:
    """The distill job of a recipe, with packed tables and seeded weights in `tmp_path`."""

    def make(recipe: Recipe) -> Job:
        task, folder, samples, labels = labelled(recipe)
        rows, validation, initial = tmp_path / "rows.arrow", tmp_path / "validation.arrow", tmp_path / "initial"
        table.write(rows, task.pack(samples, labels, False))
        table.write(validation, task.validation_columns())
        initial.mkdir(exist_ok=True)
        task.save(task.build(recipe.student, 0), initial)
        return Job(
            recipe=recipe, arm="distill", initial=str(initial), table=str(rows), validation=str(validation),
            stages=recipe.distill.active, batch_size=recipe.distill.batch_size, engine=recipe.distill.engine,
            teacher_hidden=SIZES["hidden_size"], teacher=str(folder),
        )  # fmt: skip

    return make


def wide(network: Any) -> Any:
    """The network with weights wide enough that its answers differ from row to row."""
    import torch

    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(0))
    return network


@pytest.fixture
def widened() -> Callable[[Any], Any]:
    """See `wide`."""
    return wide
