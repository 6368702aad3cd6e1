"""What the commands that look back do, between the command line and their modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.commands import Asked, leave_ray, opened
from jobs.terminal import Terminal, say

if TYPE_CHECKING:
    from rich.console import Console

Given = tuple[str, Sequence[str], str]  # recipe, changes, store


def diff(terminal: Terminal, given: tuple[str, str | None, str, int | None], store: str) -> None:
    """Where two models disagree. Raises InputError for models or rows that are not there."""
    from cluster.store import Store
    from jobs.after import diff as differences
    from jobs.after.diff import show

    document = differences.compare(Store.open(store), differences.Wanted(*given))
    terminal.answer(document, lambda console: show.show(console, document))


def lineage(terminal: Terminal, model: str, store: str) -> None:
    """Where a model comes from. Raises InputError, and StoreError after the answer where something is gone."""
    from cluster.store import Store
    from jobs.after import lineage as lines

    document = lines.trace(Store.open(store), model)
    terminal.answer(document, lambda console: lines.show(console, document))
    lines.refuse_broken(document)


def reproduce(terminal: Terminal, model: str, store: str, into: str | None) -> None:
    """A model's run again. Raises StepFailed after the answer where a metric came out differently."""
    from cluster.store import Store
    from jobs.after import reproduce as again
    from jobs.progress import Progress

    scratch = Store.open(into or f"{store.rstrip('/')}-reproduced")
    try:
        with Progress(terminal.console) as progress:
            document = again.run(Store.open(store), model, scratch, progress)
    finally:
        leave_ray()
    terminal.answer(document, lambda console: again.show(console, document))
    again.refuse_other(document)


def watch(terminal: Terminal, given: Given, once: bool, kind: str | None) -> None:
    """Look after what is served: the newest alarm, one round of a kind, or for ever. Raises as `jobs.watch.once`."""
    recipe, store = opened(Asked(*given))
    from jobs import watch as watching
    from jobs.progress import Progress

    try:
        with Progress(terminal.console) as progress:
            if kind is not None:
                done = watching.scheduled(recipe, store, progress, kind)
            elif once:
                done = watching.once(recipe, store, progress)
            else:
                return watching.loop(recipe, store, progress, lambda found: _told(terminal.console, found))
    finally:
        leave_ray()
    return terminal.answer(done, lambda console: _told(console, done))


def resume(terminal: Terminal, given: Given) -> None:
    """Let a paused model go on. Raises InputError for a recipe that cannot work."""
    recipe, store = opened(Asked(*given))
    from jobs import watch as watching

    document = watching.resume(recipe, store)
    terminal.answer(document, lambda console: _told(console, document))


def schedule(terminal: Terminal, given: Given, form: str, out: str | None) -> None:
    """Write the schedule in a form that another tool runs. Raises InputError for an unknown form."""
    from cluster import recipe as recipes
    from jobs.after import schedules

    recipe = recipes.load(given[0], given[1])
    text = schedules.written(recipe, schedules.Place(*given), form)
    path = Path(out or schedules.FORMS[form].file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    terminal.answer({"form": form, "file": str(path)}, lambda console: say(console, f"wrote {path}"))


def _told(console: Console, document: Mapping[str, Any]) -> None:
    for name, value in document.items():
        rows = value.items() if isinstance(value, Mapping) else [(name, value)]
        for key, own in rows:
            say(console, f"{key}: {'none' if own is None else own}")
