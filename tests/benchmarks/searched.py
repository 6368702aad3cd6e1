"""The tables of trials that searchers are replayed on: every point of a grid, trained and measured once, by hand:

    python tests/benchmarks/searched.py fashion_mnist        (and mnist)

It goes on where it was stopped, and ends after RAYDISTILL_SECONDS (default: when the table is whole). A row is a real
trial of `tuning.objective` without early stopping: its point, its objectives, agreement at every report, its seconds.
"""

from __future__ import annotations

import csv
import itertools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1])) if __name__ == "__main__" else None

from cluster import session  # noqa: E402 - a script of its own, run from anywhere
from cluster.recipe import Recipe, load  # noqa: E402
from cluster.store import Artifact, Store  # noqa: E402

DATA = Path(os.environ.get("RAYDISTILL_DATA", HERE.parents[2] / "shared" / "data")) / "image"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "search"
RATE, TEMPERATURE = "distill.stages.0.learning_rate", "distill.stages.0.losses.0.params.temperature"
TRUTH, WIDTH = "distill.stages.0.losses.1.weight", "student.params.stem"
KNOBS: dict[str, list[float]] = {
    RATE: [0.0005, 0.0015, 0.005, 0.015, 0.05],
    TEMPERATURE: [1.0, 2.0, 4.0, 8.0],
    TRUTH: [0.0, 0.3],
    WIDTH: [4, 8, 16, 32],
}
REPORTS = 9
COLUMNS = (*KNOBS, "quality", "latency_ms", "bytes", *(f"agreement_{at}" for at in range(REPORTS)), "seconds")
ROWS = {"train": 5000, "test": 1000}
STAGE = (
    "{name: soft_labels, epochs: 0.1, min_steps: 108, learning_rate: 5.0e-3, losses: "
    "[{name: forward_kl, weight: 1.0, params: {temperature: 4.0}}, {name: cross_entropy, weight: 0.3}]}"
)
FIT = "{name: fit, epochs: 2, min_steps: 300, learning_rate: 3.0e-3, losses: [{name: cross_entropy}]}"


def table_of(name: str) -> Path:
    """Where the rows of a data set's grid are kept."""
    return HERE / "data" / f"search_{name}.csv"


def grid() -> list[dict[str, float]]:
    """All points, in order."""
    return [dict(zip(KNOBS, values, strict=True)) for values in itertools.product(*KNOBS.values())]


def recipe_of(name: str) -> Recipe:
    """A small student of a small teacher on 12 x 12 pictures of a public set; its files are cut out of the set here."""
    files = {split: _cut(name, split, rows) for split, rows in ROWS.items()}
    knobs = ", ".join(f"{knob}: {{choice: {values}}}" for knob, values in KNOBS.items())
    return load("image_classification", [
        f"name={name}", "data.source=table", f"data.train={files['train']}", f"data.test={files['test']}",
        "data.validation_share=0.2", "data.params={size: 12}",
        "student.params={stem: 16, widths: [16, 24], strides: [1, 2]}",
        "fit.views={count: 1, shift: 0.1}", f"fit.stages=[{FIT}]", "generate.views={count: 1, shift: 0.1}",
        f"distill.stages=[{STAGE}]", f"search.knobs={{{knobs}}}", f"search.reports={REPORTS}",
        "search.agreement_rows=500",
    ])  # fmt: skip


def _cut(name: str, split: str, rows: int) -> Path:
    path = CELLS / name / f"{split}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = pq.read_table(DATA / f"{name}_{split}.parquet")
        pq.write_table(whole.take(list(range(0, len(whole), len(whole) // rows))[:rows]), path)
    return path


def read(name: str) -> list[dict[str, float]]:
    """The rows that are there."""
    path = table_of(name)
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]


def missing(name: str) -> list[dict[str, float]]:
    """Points that have no row yet, spread over the grid, so that a table that is not whole is no corner of it."""
    seen = {tuple(row[knob] for knob in KNOBS) for row in read(name)}
    points = [point for point in grid() if tuple(point.values()) not in seen]
    return [points[at] for at in sorted(range(len(points)), key=lambda at: at * 61 % len(grid()))]


def measure(name: str, seconds: float) -> None:
    """Train points that have no row, until there is none or `seconds` have passed."""
    from tuning import objective
    from tuning.search import prepare
    from tuning.space import Space

    until, space, store = time.monotonic() + seconds, Space(recipe_of(name)), Store.open(CELLS / "store")
    prepare(space, store, Silent())
    session.disconnect()
    for point in missing(name):
        if time.monotonic() > until:
            break
        whole = {knob: int(value) if knob == WIDTH else value for knob, value in point.items()}
        trial = objective.run(space, store, whole, lambda seen: None)
        _append(table_of(name), {**point, **_row(objective.content(trial))})


def _row(found: Mapping[str, Any]) -> dict[str, float]:
    curve = {f"agreement_{at}": agreement for at, (_, agreement) in enumerate(found["curve"])}
    objectives = {name: found[name] for name in ("quality", "latency_ms", "bytes")}
    return {**objectives, **curve, "seconds": found["seconds"]["all"]}


def _append(path: Path, row: Mapping[str, float]) -> None:
    path.parent.mkdir(exist_ok=True)
    new = not path.is_file()
    with path.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow({key: f"{row[key]:.6g}" for key in COLUMNS})


class Silent:
    """A watcher of `jobs.pipeline` that shows nothing."""

    def started(self, verb: str, scratch: list[str]) -> None:
        """See `jobs.pipeline.Watcher`."""

    def finished(self, verb: str, artifacts: list[Artifact], seconds: float, reused: bool) -> None:
        """See `jobs.pipeline.Watcher`."""


if __name__ == "__main__":
    measure(sys.argv[1], float(os.environ.get("RAYDISTILL_SECONDS", "inf")))
    print(f"{len(read(sys.argv[1]))} of {len(grid())} rows")  # noqa: T201
