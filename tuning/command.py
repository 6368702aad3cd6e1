"""What `python -m tuning search` does between the command line and the search."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import RecipeError
from cluster.recipe import Recipe, changed, load
from cluster.recipe.load import RecipeLoader
from cluster.store import Store
from jobs.terminal import Terminal, say
from tuning.search import Wanted


def search(terminal: Terminal, recipe: Recipe, store: Store, wanted: Wanted) -> None:
    """Search, and answer with what was found and where it lies."""
    from jobs.progress import Progress
    from tuning import report, results
    from tuning import search as searching

    try:
        with Progress(terminal.console) as progress:
            artifact = searching.run(recipe, store, wanted, progress)
    finally:
        if "ray" in sys.modules:
            from cluster import session

            session.disconnect()
    found, folder = results.content(artifact), artifact.path()
    answer = {**found, "artifact": artifact.id, "folder": str(folder), "best_recipe": str(folder / results.BEST)}
    terminal.answer(answer, lambda console: say(console, report.show(found, folder)))


def with_space(recipe: Recipe, file: str) -> Recipe:
    """The recipe with the `search` section of a YAML file: its content is the section, or only its `knobs`.

    Raises RecipeError where the file is none.
    """
    path = Path(file)
    if not path.is_file():
        raise RecipeError("--space names no file", got=file, expected="a YAML file: knob -> {between, log, ...}")
    try:
        values: Any = yaml.load(path.read_text(encoding="utf-8"), RecipeLoader)
    except yaml.YAMLError as error:
        raise RecipeError(f"{file} is not valid YAML", got=" ".join(str(error).split())) from None
    if not isinstance(values, Mapping):
        raise RecipeError(f"{file} is no space", got=type(values).__name__, expected="knob -> {between, log, ...}")
    section = dict(values) if "knobs" in values else {"knobs": dict(values)}
    return changed(recipe, {f"search.{key}": value for key, value in section.items()})


def opened(recipe: str, changes: list[str], space: str | None) -> Recipe:
    """The recipe to search around, checked. Raises RecipeError."""
    found = load(recipe, changes)
    return found if space is None else with_space(found, space)
