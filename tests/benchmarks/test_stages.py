"""What each stage, each layer map and training for INT8 is worth: the recipe `layered` on banking77, whole and with one
thing changed, and the main preset's three stages on `digits`; each from one teacher and one set of samples.

A cell is one run of the recipe by its command, into a store that cells share, and a JSON file when it is done: a killed
benchmark goes on with the cell it was in. Cells lie under RAYDISTILL_CELLS (default runs/bench-cells). One seed: of the
3,080 test rows (digits: 1,500 questions) a difference below one point is noise. What leaves a stage out is
`distill.stages.N.enabled=false`.
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

from cluster.store import Store

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RAYDISTILL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "text"
CELLS = Path(os.environ.get("RAYDISTILL_CELLS", "runs/bench-cells")).resolve() / "stages"
COMMON = [
    f"data.train={DATA / 'banking77_train.parquet'}",
    f"data.test={DATA / 'banking77_test.parquet'}",
    "generate.views={dropped: 1}",
    *(f"evaluate.gates.{gate}=null" for gate in ("retention_min", "above_control", "int8_agreement_min")),
]
NO_CONTROL = "distill.control=false"
ARMS: dict[str, list[str]] = {
    "whole": [],
    "without_syntax": ["distill.stages.0.enabled=false", NO_CONTROL],
    "without_semantics": ["distill.stages.1.enabled=false", NO_CONTROL],
    "without_domain": ["distill.stages.2.enabled=false", NO_CONTROL],
    "layers_uniform": ["distill.stages.1.layers.map=uniform", NO_CONTROL],
    "layers_cka": ["distill.stages.1.layers.map=cka", NO_CONTROL],
    "last_state_alone": ["distill.stages.1.layers=null", NO_CONTROL],
    "trained_for_int8": ["distill.stages.2.quantize=true", NO_CONTROL],
}
ALONE = [NO_CONTROL, "evaluate.gates.above_control=null"]
DIGITS: dict[str, list[str]] = {
    "digits_whole": ALONE,
    "digits_without_soft_labels": [*ALONE, "distill.stages.0.enabled=false"],
    "digits_without_hidden_states": [*ALONE, "distill.stages.1.enabled=false"],
    "digits_without_fusion": [*ALONE, "distill.stages.2.enabled=false", "distill.stages.1.kv_heads=2"],
}
CHANGED = {
    "without_syntax": "without stage 1 (masked words)",
    "without_semantics": "without stage 2 (soft labels and hidden states)",
    "without_domain": "without stage 3 (the classes)",
    "layers_uniform": "layers met by map uniform instead of last_k",
    "layers_cka": "layers met by map cka instead of last_k",
    "last_state_alone": "the last state alone instead of four layers",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(12 * 3600)]
on_banking77 = pytest.mark.skipif(not DATA.is_dir(), reason="needs banking77 in ../shared/data/text")


def cell(arm: str) -> dict[str, Any]:
    """What one run measured: the students' metrics and sizes, INT8's loss, and its stages."""
    path = CELLS / f"{arm}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    CELLS.mkdir(parents=True, exist_ok=True)
    store = CELLS / "store"
    name, given = ("digits", DIGITS[arm]) if arm in DIGITS else ("layered", [*COMMON, *ARMS[arm]])
    command = [sys.executable, "-m", "jobs", "run", name, "--until", "evaluate", "--store", str(store), "--json"]
    command += [word for value in given for word in ("--set", value)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr[-3000:]  # 3: a gate failed, the report is there
    report_id = json.loads(done.stdout)["artifacts"]["report"]
    report = json.loads((Store.open(store).get("report", report_id).path() / "report.json").read_text())
    found = {
        "metrics": {kind: model["metrics"] for kind, model in report["models"].items()},
        "int8": report["int8"], "stages": report["stages"], "commit": report["commit"],
    }  # fmt: skip
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(found, indent=1))
    aside.replace(path)
    return found


def accuracy(arm: str, model: str = "student") -> float:
    return float(cell(arm)["metrics"][model]["accuracy"])


@pytest.mark.parametrize("arm", [arm for arm in DIGITS if arm != "digits_whole"])
def test_what_a_stage_of_the_main_preset_is_worth(arm: str, record: Callable[..., None]) -> None:
    whole, without = cell("digits_whole"), cell(arm)
    ours, peer = (float(one["metrics"]["student_int8"]["exact_match"]) for one in (whole, without))
    record(
        f"stages_{arm}", "recipe digits: test questions that the INT8 student answers right, one seed", ours, "share",
        peer=arm.removeprefix("digits_").replace("_", " "), peer_value=peer,
        metrics={name: one["metrics"]["student_int8"] for name, one in (("whole", whole), (arm, without))},
        stages=[{key: stage[key] for key in ("name", "epochs", "kept")} for stage in without["stages"]],
    )  # fmt: skip


@on_banking77
@pytest.mark.parametrize("arm", ARMS)
def test_a_cell(arm: str) -> None:
    assert {"student", "student_int8", "teacher"} <= set(cell(arm)["metrics"])


@on_banking77
def test_the_whole_recipe_is_above_its_control_arm(record: Callable[..., None]) -> None:
    record(
        "stages_layered", "recipe layered on banking77: test accuracy of the float student", accuracy("whole"), "share",
        peer="control arm: same student and steps, true labels alone", peer_value=accuracy("whole", "control"),
        bar="> peer", passed=accuracy("whole") > accuracy("whole", "control"), teacher=accuracy("whole", "teacher"),
    )  # fmt: skip


@on_banking77
@pytest.mark.parametrize("arm", CHANGED)
def test_what_one_part_of_the_recipe_is_worth(arm: str, record: Callable[..., None]) -> None:
    stages = [{key: one[key] for key in ("name", "epochs", "layers", "kept")} for one in cell(arm)["stages"]]
    what = "recipe layered on banking77: test accuracy of the float student"
    record(
        f"stages_{arm}", what, accuracy("whole"), "share", peer=CHANGED[arm], peer_value=accuracy(arm), stages=stages
    )


@on_banking77
def test_a_last_stage_that_trains_for_int8_beside_one_that_does_not(record: Callable[..., None]) -> None:
    own, plain = cell("trained_for_int8")["int8"], cell("whole")["int8"]
    record(
        "stages_trained_for_int8", "relative logit error of INT8 (exact) after a last stage that trained for it",
        own["logit_error"], "share", peer="the same stage in float", peer_value=plain["logit_error"],
        accuracy_int8=accuracy("trained_for_int8", "student_int8"), accuracy_float=accuracy("trained_for_int8"),
        peer_accuracy_int8=accuracy("whole", "student_int8"), peer_accuracy_float=accuracy("whole"),
    )  # fmt: skip
