"""What the commands do, between the command line and the steps: read the recipe, refuse what cannot work, run, answer.

Nothing heavy is imported before the recipe is read: a typing error costs a second, not an import of torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from cluster.errors import GateFailed, InputError
from jobs.terminal import Terminal, say

if TYPE_CHECKING:
    from cluster.recipe import Recipe
    from cluster.store import Artifact, Store

# In the order they run. Kept here too, because `jobs.pipeline` cannot be asked without importing every step.
VERBS: Mapping[str, str] = {
    "fit": "Fit the teacher on the recipe's own labelled rows.",
    "generate": "Let the teacher answer every request, and keep its soft labels.",
    "curate": "Keep the answers worth learning from, each other one with its reason.",
    "distill": "Train the student stage by stage, and the control arm beside it.",
    "export": "Turn the student into the INT8 bundle that is served.",
    "evaluate": "Measure all of them on the untouched test rows, write the report, judge the gates.",
    "promote": "Register the bundle that passed, and give it its alias.",
}


@dataclass(frozen=True)
class Asked:
    """What every command on a recipe is given."""

    recipe: str
    changes: Sequence[str]
    store: str


def run(terminal: Terminal, asked: Asked, until: str | None) -> None:
    """All steps up to `until` that are not done, then the demo and the closing table.

    Raises InputError before Ray starts, GateFailed after the report was written, and what a step raises.
    """
    names = list(VERBS)
    if until is not None and until not in names:
        raise InputError("--until names no step", got=until, expected=", ".join(names))
    recipe, store = opened(asked)
    verbs = names if until is None else names[: names.index(until) + 1]
    try:
        record = _run(terminal, recipe, store, verbs)
        asked_over_http = _demo(terminal, recipe, store) if until is None else None
    except GateFailed:
        _closing(terminal.console, recipe, store)
        raise
    finally:
        leave_ray()
    if "report" in record["artifacts"]:
        terminal.answer({**record, "demo": asked_over_http}, lambda console: _closing(console, recipe, store))
    else:
        terminal.answer({**record, "demo": None}, lambda console: _artifacts(console, record["artifacts"]))


def verb(terminal: Terminal, asked: Asked, name: str, force: bool = False, accepted: Sequence[str] = ()) -> None:
    """One step alone. Raises ArtifactMissing when what it reads is not there yet, else as `run`."""
    recipe, store = opened(asked)
    try:
        overruled = force or bool(accepted)
        record = _overruled(recipe, store, force, accepted) if overruled else _run(terminal, recipe, store, [name])
    finally:
        leave_ray()
    terminal.answer(record, lambda console: _artifacts(console, record["artifacts"]))


def plan(terminal: Terminal, asked: Asked) -> None:
    """What would run and what is done; changes nothing."""
    recipe, store = opened(asked)
    from jobs import pipeline, step

    steps = pipeline.plan(recipe, store)
    gates = {name: limit for name, limit in recipe.evaluate.gates.model_dump().items() if limit is not None}
    document = {
        "run": step.run_name(recipe), "recipe": recipe.model_dump(mode="json"), "steps": steps, "gates": gates,
        "disk_bytes": pipeline.DISK_BYTES,
    }  # fmt: skip
    terminal.answer(document, lambda console: _planned(console, document))


def report(terminal: Terminal, run_name: str, store_root: str, other: str | None = None) -> None:
    """The report of a run, or two side by side. Raises ArtifactMissing when there is none."""
    from cluster.store import Store
    from jobs.after import report as reports

    store = Store.open(store_root)
    found = reports.read_report(store, run_name)
    if other is not None:
        return reports.side_by_side(terminal, store, found, reports.read_report(store, other))
    return terminal.answer(found.values, lambda console: say(console, reports.show(found)))


def inspect_labels(terminal: Terminal, run_name: str, store_root: str, rows: int) -> None:
    """What is inside a run's soft labels. Raises ArtifactMissing, ArtifactCorrupt, StepFailed where a check fails."""
    from cluster.store import Store
    from jobs.after import labels

    document = labels.inspect(Store.open(store_root), run_name, rows)
    terminal.answer(document, lambda console: labels.show(console, document))
    labels.refuse_problems(document)


def curate_audit(terminal: Terminal, sheet: str) -> None:
    """What a filled-in audit sheet says. Raises DataError when it is none, or nothing is filled in."""
    from dataclasses import asdict
    from pathlib import Path

    from jobs.after import audit

    found = audit.read(Path(sheet))
    terminal.answer(asdict(found), lambda console: say(console, audit.told(found)))


def opened(asked: Asked) -> tuple[Recipe, Store]:
    """The recipe and the store, checked as far as it goes without touching Ray. Raises InputError."""
    from cluster import recipe as recipes
    from cluster.store import Store

    recipe = recipes.load(asked.recipe, asked.changes)
    store = Store.open(asked.store)
    from jobs import pipeline

    pipeline.check(recipe, store)
    return recipe, store


def _run(terminal: Terminal, recipe: Recipe, store: Store, verbs: list[str]) -> dict[str, Any]:
    from cluster import logs, tracing
    from jobs import evaluate, pipeline, promote, step
    from jobs.measure import gates
    from jobs.metered import Metered
    from jobs.progress import Progress

    name = step.run_name(recipe)
    logs.belongs_to(name)
    span = tracing.span("run", run=name, steps=" ".join(verbs))
    with Progress(terminal.console) as progress, Metered(progress, name) as watcher, span:
        record = pipeline.run(recipe, store, watcher, verbs)
    if verbs[-1] == evaluate.STEP.name:  # a later promote judges by itself
        gates.refuse_failed(evaluate.report_of(_made(store, record, evaluate.STEP.kind))["gates"])
    if promote.STEP.kind in record["artifacts"]:
        promote.confirm(recipe, store, _made(store, record, promote.STEP.kind))
    return record


def _overruled(recipe: Recipe, store: Store, force: bool, accepted: Sequence[str]) -> dict[str, Any]:
    """Promote although gates failed or the teacher's terms forbid it, noted in the artifact as such."""
    from jobs import promote, step

    promotion = promote.overruling(force, accepted).run(recipe, store)
    promote.confirm(recipe, store, promotion)
    return {
        "run": step.run_name(recipe),
        "artifacts": {promotion.kind: promotion.id},
        "facts": promotion.manifest.facts,
    }


def _made(store: Store, record: Mapping[str, Any], kind: str) -> Artifact:
    return store.get(kind, record["artifacts"][kind])


def _demo(terminal: Terminal, recipe: Recipe, store: Store) -> dict[str, Any] | None:
    if not recipe.serving.demo_requests:
        return None
    from jobs import demo

    return demo.run(recipe, store, terminal.console if terminal.as_json else terminal.answers())


def _closing(console: Console, recipe: Recipe, store: Store) -> None:
    """The table that a run ends with. Raises ArtifactMissing when the run wrote no report."""
    from jobs import step
    from jobs.after import report as reports

    say(console, reports.show(reports.read_report(store, step.run_name(recipe))))


def _artifacts(console: Console, artifacts: Mapping[str, str]) -> None:
    for kind, aid in artifacts.items():
        say(console, f"{kind} {aid}")


def _planned(console: Console, document: Mapping[str, Any]) -> None:
    table = Table("step", "artifact", "id", "", title=document["run"], title_justify="left", box=None)
    for row in document["steps"]:
        table.add_row(row["verb"], row["kind"], row["id"], "[green]done[/green]" if row["done"] else "to do")
    say(console, table)
    say(console, "gates: " + ", ".join(f"{name} {limit:g}" for name, limit in document["gates"].items()))
    say(console, f"disk: {document['disk_bytes'] >> 20} MiB free needed; the resolved recipe: --json")


def leave_ray() -> None:
    """Disconnect from Ray where this command has connected; it would outlive the process otherwise."""
    if "ray" in sys.modules:
        from cluster import session

        session.disconnect()
