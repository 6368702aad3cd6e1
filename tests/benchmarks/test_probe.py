"""What `jobs probe` says of a run before it is made, beside the run itself: banking77, clinc150, the default recipe,
and the small language model.

The runs are those that other benchmarks and `make run` have left: the cells of `test_text_quality.py` below
RAYDISTILL_CELLS (default runs/bench-cells), and the default recipe's report in RAYDISTILL_STORE (default runs). Nothing
of them reaches the probe but the fitted teacher, which is copied; its pilots lie in a store of their own, and what is
there is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe import load
from cluster.store import Store
from jobs import evaluate, fit

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RAYDISTILL_DATA", ROOT.parent / "shared" / "data")) / "text"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve()
RUNS = Path(os.environ.get("RAYDISTILL_STORE", "runs")).resolve()
SPLITS = {"banking77": ("train", "test"), "clinc150": ("train", "validation", "test")}
NO_GO = 3  # the exit code; the prediction is printed all the same
pytestmark = [pytest.mark.slow, pytest.mark.timeout(4 * 3600)]


@dataclass(frozen=True)
class Made:
    """A finished run: the recipe's changes, the store with its teacher, and per seed retention and seconds of it."""

    changes: list[str]
    store: Path
    retention: dict[str, float]
    seconds: dict[str, float]


def made(name: str) -> Made:
    """The run that is predicted; skips where it is not there."""
    if name == "language_model":
        return _texts()
    return _default() if name == "digits" else _cells(name)


def _cells(name: str) -> Made:
    done = sorted((Path(__file__).with_name("data") / "texts").glob(f"{name}_*.json"))
    if not DATA.is_dir() or not done:
        pytest.skip(f"no cell of {name}: pytest tests/benchmarks/test_text_quality.py -k test_a_cell")
    found = {path.stem.rpartition("_")[2]: json.loads(path.read_text()) for path in done}
    files = [f"data.{split}={DATA / f'{name}_{split}.parquet'}" for split in SPLITS[name]]
    kept = {seed: one["retention"]["value"] for seed, one in found.items()}
    return Made(files, CELLS / "texts" / "store", kept, next(iter(found.values()))["seconds"])


def _default() -> Made:
    found = _reported("digits", RUNS)
    if found is None:
        pytest.skip(f"the default recipe was not run into {RUNS}: make run, or RAYDISTILL_STORE")
    return found


def _texts() -> Made:
    """The run of texts that are everywhere (the installed Python's library), made here where it is not there."""
    store = CELLS / "probe" / "language_model"
    found = _reported("language_model", store)
    if found is None:
        command = [sys.executable, "-m", "jobs", "run", "language_model", "--until", "evaluate", "--store", str(store)]
        done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
        assert done.returncode in (0, NO_GO), done.stderr[-3000:]
        found = _reported("language_model", store)
    assert found is not None
    return found


def _reported(name: str, folder: Path) -> Made | None:
    report = evaluate.STEP.find(load(name), Store.open(folder))
    if report is None:
        return None
    found = evaluate.report_of(report)
    return Made([], folder, {"0": found["retention"]["value"]}, found["seconds"])


def probed(name: str, run: Made) -> dict[str, Any]:
    """What the command says, asked as a user would."""
    own, recipe = CELLS / "probe" / "store", load(name, run.changes)
    teacher = Path(fit.STEP.kind) / fit.STEP.id(recipe)
    if (run.store / teacher).is_dir() and not (own / teacher).is_dir():
        shutil.copytree(run.store / teacher, own / teacher)
    command = [sys.executable, "-m", "jobs", "probe", name, "--store", str(own), "--json"]
    done = subprocess.run([*command, *(word for one in run.changes for word in ("--set", one))],
                          cwd=ROOT, text=True, capture_output=True, check=False)  # fmt: skip
    assert done.returncode in (0, NO_GO), done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", ["banking77", "clinc150", "digits", "language_model"])
def test_a_probe_predicts_what_the_whole_run_keeps(name: str, record: Callable[..., None]) -> None:
    run = made(name)
    found = probed(name, run)
    low, value, high = (found["retention"][key] for key in ("low", "value", "high"))
    inside = {seed: low <= kept <= high for seed, kept in run.retention.items()}
    seed = min(run.retention)  # the recipe's own; the others say how far one run is from the next
    took = {step: run.seconds[step] for step in found["seconds"] if step in run.seconds}
    largest = found["pilots"][-1]["rows"]
    what = f"{name}: retention predicted from {largest} of {found['rows']} rows ({low:.3f} to {high:.3f})"
    record(f"probe.{name}", what, value, "share", peer="the whole run", peer_value=run.retention[seed],
           bar="the run within the interval", passed=inside[seed], interval=[low, high], runs=run.retention,
           inside=inside, verdict=found["verdict"], gates=found["gates"], pilots=found["pilots"],
           seconds=found["seconds"], took=took)  # fmt: skip
    assert inside[seed], (found["retention"], run.retention)
