"""A search as a user makes one, on the default recipe and on banking77: does what it finds beat the hand-made preset?

The search sees validation rows alone, and the best of many trials looks better there than it is. So the recipe that it
wrote and the preset are both run to the end, and their bundles answer the untouched test rows: the paired difference
decides, and one whose interval holds zero is a tie. Below RAYDISTILL_CELLS (default runs/bench-cells), where a killed
search or run goes on; RAYDISTILL_TRIALS says how many trials (default 30).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe import Gates

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RAYDISTILL_DATA", ROOT.parent / "shared" / "data")) / "text"
STORE = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "search" / "live"
TRIALS = int(os.environ.get("RAYDISTILL_TRIALS", "30"))
BANKING77 = [f"data.{split}={DATA / f'banking77_{split}.parquet'}" for split in ("train", "test")]
FILES: dict[str, list[str]] = {"digits": [], "banking77": BANKING77}
# Gates are for what is promoted; the control arm says nothing here.
OFF = ["distill.control=false", *(f"evaluate.gates.{name}=null" for name in Gates.model_fields)]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(12 * 3600)]


def asked(*words: str, changes: list[str]) -> dict[str, Any]:
    """The one document of a command; it must end well."""
    sets = [word for one in changes for word in ("--set", one)]
    command = [sys.executable, "-m", *words, *sets, "--store", str(STORE), "--json"]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", FILES)
def test_what_a_search_finds_beats_the_hand_made_recipe(name: str, record: Callable[..., None]) -> None:
    if name != "digits" and not DATA.is_dir():
        pytest.skip(f"needs {name} in {DATA}")
    files = FILES[name]
    found = asked("tuning", "search", name, "--trials", str(TRIALS), "--warm-from", "none", changes=files)
    preset = asked("jobs", "run", name, "--until", "evaluate", changes=[*files, *OFF])
    best = asked("jobs", "run", found["best_recipe"], "--until", "evaluate", changes=OFF)
    assert [one["runs"] for one in found["teacher"]] == [1] * len(found["teacher"])
    if preset["run"] == best["run"]:
        change = {"value": 0.0, "low": 0.0, "high": 0.0}
        quality = {"first": None, "second": None, "rows": 0}
    else:
        said = asked("jobs", "diff", preset["run"], best["run"], "--split", "test", changes=[])
        quality, change = said["quality"], said["quality"]["change"]
    verdict = "better" if change["low"] > 0 else "worse" if change["high"] < 0 else "tie"
    what = f"{name}: accuracy of the INT8 student on test rows, best of {TRIALS} trials; {verdict}"
    record(f"search.live.{name}", what, quality["second"], "accuracy", peer="the hand-made recipe",
           peer_value=quality["first"], bar="above the hand-made recipe; a tie is no pass", passed=verdict == "better",
           verdict=verdict, change=change, rows=quality["rows"], validation=found["gain"], count=found["count"],
           best=found["best"], front=found["front"], importance=found["importance"])  # fmt: skip
    assert verdict != "worse", change
