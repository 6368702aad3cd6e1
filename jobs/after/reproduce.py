"""`jobs reproduce MODEL`: the run behind a model once more, from the recipe in its report, into a store of its own.

Every artifact is compared with the first run's: the same id (the same inputs), the same bytes of each file, and the
metrics, equal or inside the report's own interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import StepFailed
from cluster.store import Artifact, Store
from jobs import evaluate
from jobs.after import naming, wording
from jobs.measure.shares import wilson
from jobs.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

    from jobs.pipeline import Watcher

# In the order they are made; the report says what they are worth and is compared by its numbers.
KINDS = ("teacher", "samples", "curated", "student", "control", "bundle")
# Files that hold times or pages made of them.
TIMED = ("history.json", "curation.html", "bundle.json", "report.html", "report.json")
SAME, CLOSE, OTHER = "bit-equal", "within the interval", "differs"


def run(store: Store, asked: str, scratch: Store, watcher: Watcher) -> dict[str, Any]:
    """Run all steps up to evaluate into `scratch`, resuming what is there, and return the comparison (`compare`).

    Raises InputError for an unknown name, and what a step raises. A run that continues another one cannot be made in
    an empty store: its earlier run is copied in.
    """
    from jobs import pipeline

    found = naming.find(store, asked)
    _bring(store, scratch, found)
    pipeline.check(found.recipe, scratch)
    pipeline.run(found.recipe, scratch, watcher, ["fit", "generate", "curate", "distill", "export", "evaluate"])
    return compare(store, scratch, found)


def compare(store: Store, scratch: Store, found: naming.Named) -> dict[str, Any]:
    """`artifacts` (kind, ids, verdict, files that differ), `metrics` (first, again, verdict) and `verdict` overall."""
    record = scratch.read_record(f"runs/{found.run}")
    if record is None:
        raise StepFailed("reproduce", f"no run {found.run} in {scratch.root}", "the recipe in the report is another")
    again = record["artifacts"]
    artifacts = [
        _artifact(store.find(kind, found.artifacts[kind]), scratch.get(kind, again[kind]))
        for kind in KINDS
        if kind in again and kind in found.artifacts
    ]
    reports = store.get("report", found.artifacts["report"]), scratch.get("report", again["report"])
    metrics = _metrics(*(evaluate.report_of(report) for report in reports))
    verdicts = [one["verdict"] for one in metrics]
    verdict = OTHER if OTHER in verdicts else SAME if set(verdicts) == {SAME} else CLOSE
    return {"run": found.run, "asked": found.asked, "store": scratch.root, "verdict": verdict, "artifacts": artifacts,
            "metrics": metrics}  # fmt: skip


def refuse_other(document: Mapping[str, Any]) -> None:
    """Raise StepFailed naming the metrics that came out differently."""
    other = [one for one in document["metrics"] if one["verdict"] == OTHER]
    if other:
        told = ", ".join(f"{one['model']} {one['metric']} {one['first']:.4f} then {one['again']:.4f}" for one in other)
        raise StepFailed("reproduce", f"not the same: {told}", f"both runs: {document['store']}")


def _bring(store: Store, scratch: Store, found: naming.Named) -> None:
    """Copy what the run continues into the scratch store: its record and its artifacts."""
    pin = f"continued/{found.run}"
    earlier = store.read_record(pin)
    if earlier is None:
        return
    before = store.read_record(f"runs/{earlier['run']}") or {}
    for kind, aid in (earlier if "artifacts" in earlier else before)["artifacts"].items():
        scratch.adopt(store.get(kind, aid))
    scratch.write_record(pin, earlier)
    scratch.write_record(f"runs/{earlier['run']}", before)


def _artifact(first: Artifact | None, again: Artifact) -> dict[str, Any]:
    if first is None:
        return {"kind": again.kind, "first": None, "again": again.id, "verdict": "not in the store", "files": []}
    old, new = first.manifest.files, again.manifest.files
    files = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    files = [name for name in files if Path(name).name not in TIMED]
    verdict = "other inputs" if first.id != again.id else "other bytes" if files else SAME
    return {"kind": again.kind, "first": first.id, "again": again.id, "verdict": verdict, "files": files}


def _metrics(first: Mapping[str, Any], again: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The primary metric of every model; one that moved is close while it stays inside the 95 % interval of a share of
    that many test rows."""
    primary, rows = first["primary_metric"], first["rows"]
    told = []
    for model, values in first["models"].items():
        old, new = values["metrics"][primary], again["models"][model]["metrics"][primary]
        low, high = wilson(round(old * rows), rows) if 0 <= old <= 1 else (old, old)
        verdict = SAME if old == new else CLOSE if low <= new <= high else OTHER
        told.append({"model": model, "metric": primary, "first": old, "again": new, "low": low, "high": high,
                     "verdict": verdict})  # fmt: skip
    return told


def show(console: Console, document: Mapping[str, Any]) -> None:
    """The document of `run` for people."""
    from rich.table import Table
    from rich.text import Text

    say(console, Text(f"{document['run']} once more, in {document['store']}: ").append(document["verdict"], "bold"))
    table = Table("artifact", "id", "again", box=None)
    for one in document["artifacts"]:
        told = one["verdict"] if not one["files"] else f"{one['verdict']}: {_some(one['files'])}"
        table.add_row(one["kind"], one["again"], told)
    for one in document["metrics"]:
        values = f"{wording.plain(one['first'])} then {wording.plain(one['again'])}"
        table.add_row(f"{wording.MODELS[one['model']]}, {wording.metric(one['metric'])}", values, one["verdict"])
    say(console, table)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
