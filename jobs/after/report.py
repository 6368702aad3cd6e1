"""Finds the report of a run and shows it in the terminal: the table that a run ends with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import ArtifactMissing
from cluster.measured import STUDENT_INT8, TEACHER
from cluster.store import Artifact, Store
from jobs import evaluate
from jobs.after import wording
from jobs.terminal import say, whole

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from jobs.terminal import Terminal

LATEST = "latest"


@dataclass(frozen=True)
class Report:
    """A finished report: `values` (the content of `report.json`) and the folder with it and `report.html`."""

    values: Mapping[str, Any]
    folder: Path


def read_report(store: Store, run: str = LATEST) -> Report:
    """The report of a run by its name, of a report artifact by its id, or the one written last.

    Raises ArtifactMissing naming the runs that are there.
    """
    artifact = _artifact(store, run)
    return Report(evaluate.report_of(artifact), artifact.path())


def _artifact(store: Store, run: str) -> Artifact:
    kind = evaluate.STEP.kind
    if run == LATEST:
        if found := store.list(kind):
            return found[-1]
        raise ArtifactMissing(kind, LATEST, hint=f"looked in {store.root}; `python -m jobs run RECIPE` writes one")
    record = store.read_record(f"runs/{run}")
    aid = run if record is None else record["artifacts"].get(kind)
    named = None if aid is None else store.find(kind, aid)
    if named is None:
        known = ", ".join(name.removeprefix("runs/") for name in store.records("runs/")) or "none"
        raise ArtifactMissing(
            kind,
            run,
            hint=f"looked in {store.root}; runs there: {known}; `python -m jobs evaluate RECIPE` writes the report",
        )
    return named


def side_by_side(terminal: Terminal, store: Store, first: Report, second: Report) -> None:
    """Answer with two reports compared, and write the page into the store's folder `compared/`."""
    from jobs.after import compare

    found = compare.document(first.values, second.values)
    path = store.workspace / "compared" / f"{found['first']}-{found['second']}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(compare.page(found))
    terminal.answer({**found, "page": str(path)}, lambda console: say(console, compare.show(found, path)))


def show(report: Report) -> Group:
    """What a run prints at its end (a rich renderable): models, gates, and where the page lies."""
    from rich.console import Group
    from rich.text import Text

    values = report.values
    retention, int8 = values["retention"], values["int8"]
    interval = (
        ""
        if retention["low"] is None
        else f" ({wording.percent(retention['low'])} to {wording.percent(retention['high'])})"
    )
    told = [
        f"retention {wording.percent(retention['value'])}{interval}",
        f"INT8 drop {wording.percent(int8['task_drop'], 2)}, agreement {wording.percent(int8['agreement'])}",
        f"KV {wording.percent(values['kv_share'], 0)}",
        f"parameters {wording.percent(values['param_share'], 0)}",
        f"{wording.times(values['speedup'])} faster",
    ]
    page = whole(f"report: {report.folder / 'report.html'}")
    beside = [engines(values)] if values.get("engines") else []  # earlier reports have none
    return Group(models(values), Text(" \u00b7 ".join(told)), *beside, gates(values), page)


def models(values: Mapping[str, Any]) -> Table:
    """One line per model: metrics, parameters, bytes, key/value bytes per token and latency at batch 1."""
    from rich.table import Table

    metrics = list(values["models"][TEACHER]["metrics"])
    table = Table(title=f"{values['run']}: {values['rows']:,} test rows, scored by free answers", title_justify="left")
    table.add_column("model")
    for name in (*(wording.metric(metric) for metric in metrics), "parameters", "bytes", "KV B/token", "p50", "p95"):
        table.add_column(name, justify="right")
    for name, model in values["models"].items():
        shown = [wording.percent(model["metrics"][metric]) for metric in metrics]
        shown += [
            wording.count(model["params"]),
            wording.size(model["bytes"]),
            wording.plain(model["kv_bytes_per_token"]),
        ]
        timed = model["latency_ms"] or {"p50": None, "p95": None}
        shown += [wording.milliseconds(timed["p50"]), wording.milliseconds(timed["p95"])]
        table.add_row(wording.MODELS[name], *shown, style="bold" if name == STUDENT_INT8 else None)
    return table


def engines(values: Mapping[str, Any]) -> Table:
    """One line per engine that the student was measured in, the served one first."""
    from rich.table import Table

    primary = values["primary_metric"]
    table = Table(title="the student in several engines, by turns", title_justify="left")
    table.add_column("engine")
    for name in (wording.metric(primary), "as float", "bytes", "p50", "p95"):
        table.add_column(name, justify="right")
    for name, one in values["engines"].items():
        shown = [wording.percent(one["metrics"][primary]), wording.percent(one["agreement_float"])]
        shown += [wording.size(one["bytes"]), *(wording.milliseconds(one["latency_ms"][p]) for p in ("p50", "p95"))]
        served = name == STUDENT_INT8
        about = f"{one['engine']}, {one['scheme']}{' (served)' if served else ''}"
        table.add_row(about, *shown, style="bold" if served else None)
    return table


def gates(values: Mapping[str, Any]) -> Table:
    """One line per gate: value, limit, passed or failed."""
    from rich.table import Table

    table = Table(title="gates", title_justify="left")
    for name in ("gate", "value", "limit", ""):
        table.add_column(name, justify="left" if name in ("gate", "") else "right")
    for gate in values["gates"]:
        verdict = "[green]passed[/]" if gate["passed"] else "[red]failed[/]"
        table.add_row(
            gate["name"],
            wording.limit(gate["name"], gate["value"]),
            f"{gate['rule']} {wording.limit(gate['name'], gate['limit'])}",
            verdict,
        )
    return table
