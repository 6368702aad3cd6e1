"""Requests that a file holds, in place of those a task makes of its rows: what a round of `jobs watch` asks."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import schema
from cluster.errors import ArtifactMismatch, DataError
from cluster.recipe import Recipe
from jobs import tasks
from jobs.data import augment, tabular

KEY = "generate.requests"


def check(recipe: Recipe) -> None:
    """Refuse a file that cannot be asked. Raises DataError: no such file, no Parquet, other columns than
    `cluster.schema` "requests", ids that stand twice, rows of another split, slices that the task does not have."""
    if recipe.generate.requests is None:
        return
    table = _read(recipe.generate.requests)
    if other := set(table["split"].to_pylist()) - {"train"}:
        raise DataError(f"{KEY}: rows of another split", got=", ".join(sorted(other)), expected="train")
    if unknown := set(table["slice"].to_pylist()) - set(tasks.of(recipe).slices):
        expected = ", ".join(tasks.of(recipe).slices)
        raise DataError(f"{KEY}: unknown slice", got=", ".join(sorted(unknown)), expected=expected)
    distinct = len(set(table["sample_id"].to_pylist()))
    if distinct != len(table):
        raise DataError(
            f"{KEY}: sample_id stands twice", got=f"{distinct} ids of {len(table)} rows", expected="one each"
        )


def requests(recipe: Recipe) -> pa.Table:
    """The file's rows and their `generate.augment`, at most `generate.samples` (0: all); views come last."""
    section = recipe.generate
    assert section.requests is not None
    seed = recipe.seed + section.seed
    table = augment.extended(_read(section.requests), section.augment, seed)
    return table.slice(0, section.samples or len(table))


def identity(recipe: Recipe) -> dict[str, str]:
    """What names the file beside its path: its content (64 hex); {} without one."""
    path = recipe.generate.requests
    return {} if path is None else {"requests": tabular.sha256(Path(path).expanduser())}


def _read(named: str) -> pa.Table:
    path = Path(named).expanduser()
    tabular.sha256(path)  # says so where there is no such file
    try:
        table = pq.read_table(path)
        schema.check(table, "requests")
    except (pa.ArrowException, ArtifactMismatch) as error:
        raise DataError(
            f"{KEY}: {path}", got=error, expected="Parquet of the table requests (cluster.schema)"
        ) from None
    if not len(table):
        raise DataError(f"{KEY}: {path} is empty", got="0 rows", expected="requests")
    return schema.conform(table, "requests")
