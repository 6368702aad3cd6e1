"""A search as a user makes one, on the default recipe and on banking77: does what it finds beat the hand-made preset?

The search sees validation rows alone. The recipe that it wrote and the preset are both run to the end with seeds that
it never had, and their bundles answer the untouched test rows: the mean difference decides, and one whose 95 % interval
holds zero is a tie. The interval is Student's t over the seeds, of a single seed the paired one over rows. Below
RAYDISTILL_CELLS (default runs/bench-cells), where a killed search or run goes on; RAYDISTILL_TRIALS says how many
trials (default 30).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
from scipy.stats import t

from cluster.recipe import Gates

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RAYDISTILL_DATA", ROOT.parent / "shared" / "data")) / "text"
STORE = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "search" / "live"
TRIALS = int(os.environ.get("RAYDISTILL_TRIALS", "30"))
BANKING77 = [f"data.{split}={DATA / f'banking77_{split}.parquet'}" for split in ("train", "test")]
SEEDS = {"digits": (3, 4, 5), "banking77": (3,)}  # a student of banking77 takes half an hour
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
    assert [one["runs"] for one in found["teacher"]] == [1] * len(found["teacher"])
    said = [beside(name, files, found["best_recipe"], seed) for seed in SEEDS[name]]
    change = over_seeds([one["change"] for one in said])
    ours, theirs = (mean(one[side] for one in said) for side in ("second", "first"))
    verdict = "better" if change["low"] > 0 else "worse" if change["high"] < 0 else "tie"
    what = (
        f"{name}: accuracy of the INT8 student on test rows, best of {TRIALS} trials, {len(said)} further seed(s); "
        f"{verdict}"
    )
    record(f"search.live.{name}", what, ours, "accuracy", peer="the hand-made recipe", peer_value=theirs,
           bar="above the hand-made recipe; a tie is no pass", passed=verdict == "better", verdict=verdict,
           change=change, each=said, validation=found["gain"], confirmed=found["confirmed"], count=found["count"],
           best=found["best"], front=found["front"], importance=found["importance"])  # fmt: skip
    assert verdict != "worse", change


def beside(name: str, files: list[str], best: str, seed: int) -> dict[str, Any]:
    """Quality on test rows of the preset's bundle (`first`) and the found one's (`second`), and their difference."""
    own = [f"distill.seed={seed}", *OFF]
    runs = [
        asked("jobs", "run", recipe, "--until", "evaluate", changes=[*changes, *own])["run"]
        for recipe, changes in ((name, files), (best, []))
    ]
    if runs[0] == runs[1]:
        report = asked("jobs", "report", runs[0], changes=[])
        quality = report["models"]["student_int8"]["metrics"]
        return {"first": next(iter(quality.values())), "second": next(iter(quality.values())),
                "change": {"value": 0.0, "low": 0.0, "high": 0.0}}  # fmt: skip
    found = asked("jobs", "diff", *runs, "--split", "test", changes=[])["quality"]
    return {key: found[key] for key in ("first", "second", "change")}


def over_seeds(changes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean and 95 % interval of the differences of several seeds (Student's t), or of one over its rows."""
    if len(changes) == 1:
        return dict(changes[0])
    values = [one["value"] for one in changes]
    reach = float(t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5
    return {"value": mean(values), "low": mean(values) - reach, "high": mean(values) + reach}
