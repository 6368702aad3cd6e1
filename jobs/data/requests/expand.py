"""A task's requests x templates x temperatures x draws; ids are of the request, never of its answer (decision 13)."""

from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa

from cluster import schema
from cluster.canonical import digest
from cluster.errors import RecipeError
from cluster.recipe import GenerateSection
from jobs.data.requests import templates

SEED_CHARACTERS = 15  # of an id in hex: 60 bits, a positive int64


def check(section: GenerateSection) -> None:
    """Refuse templates, temperatures and draws that cannot work. Raises RecipeError."""
    templates.compiled(section.templates)
    if len(set(section.temperatures)) != len(section.temperatures) or any(one < 0 for one in section.temperatures):
        raise RecipeError("generate.temperatures", got=section.temperatures, expected="different numbers, 0 or more")
    if section.draws > 1 and not any(one > 0 for one in section.temperatures or [section.temperature]):
        hint = "set generate.temperature, 0.7 for generation"
        raise RecipeError("generate.draws: greedy answers are all alike", got=section.draws, expected="1", hint=hint)


def expand(base: pa.Table, section: GenerateSection) -> pa.Table:
    """Every combination asked for, at most `section.samples` rows (0: all), first combinations of all rows first.

    A row that stays as it is keeps its id. Any other has an id and a random stream of its own, the `parent` of its row
    (or the row itself), and the row's true label. Deterministic in (base, section).
    """
    asked = _combinations(section)
    if asked == [(None, section.temperature, 0)]:
        return base
    environment = templates.compiled(section.templates)
    rows = base.to_pylist()
    out: list[dict[str, Any]] = []
    for name, temperature, draw in asked:
        for row in rows:
            if section.samples and len(out) == section.samples:
                break
            out.append(_row(row, section, (name, temperature, draw), environment))
    return schema.conform(pa.Table.from_pylist(out, schema.schema("requests")), "requests")


def combinations(section: GenerateSection) -> int:
    """How many requests one row of a task becomes (count)."""
    return len(_combinations(section))


def _combinations(section: GenerateSection) -> list[tuple[str | None, float, int]]:
    """(template name, temperature, draw); later draws come after every first one."""
    temperatures = section.temperatures or [section.temperature]
    names: list[str | None] = [*section.templates] or [None]
    every = itertools.product(range(section.draws), temperatures, names)
    return [(name, temperature, draw) for draw, temperature, name in every if draw == 0 or temperature > 0]


def _row(
    row: dict[str, Any], section: GenerateSection, asked: tuple[str | None, float, int], environment: dict[str, Any]
) -> dict[str, Any]:
    name, temperature, draw = asked
    if name is None and temperature == section.temperature and draw == 0:
        return row
    source = None if name is None else section.templates[name]
    sample_id = digest([row["sample_id"], source, temperature, draw])[:16]
    return row | {
        "sample_id": sample_id, "seed": int(sample_id[:SEED_CHARACTERS], 16), "draw": draw, "temperature": temperature,
        "prompt": row["prompt"] if name is None else templates.fill(environment[name], row),
        "template": row["template"] if name is None else name,
        "parent": row["parent"] or row["sample_id"],
    }  # fmt: skip
