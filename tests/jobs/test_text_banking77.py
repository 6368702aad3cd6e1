"""The text recipe on real rows, five of banking77's classes, as a user starts it; the set is not in the repository."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.store import Store
from serving.bundle import predict

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "text"
CLASSES = list(range(5))
FEWER = {
    "fit.stages.0.epochs": 3,
    "fit.stages.0.min_steps": 0,
    "generate.views": "{dropped: 1, swapped: 1, joined: 0}",
    "distill.stages.0.epochs": 3,
    "distill.stages.0.min_steps": 0,
    "distill.stages.1.epochs": 5,
    "distill.stages.1.min_steps": 0,
    "distill.control": "false",  # five classes in a few steps say nothing about the difference
}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs banking77 in ../shared/data/text")
def test_five_classes_of_banking77_go_from_files_to_a_student_that_answers(tmp_path: Path) -> None:
    store = tmp_path / "store"
    own = {split: SHARED / f"banking77_{split}.parquet" for split in ("train", "test")}
    sets = {f"data.{split}": path for split, path in own.items()} | {"data.classes": CLASSES} | FEWER
    command = [sys.executable, "-m", "jobs", "run", "text_classification", "--until", "evaluate"]
    command += ["--store", str(store), "--json"]
    command += [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=880, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kept, artifacts = Store.open(store), json.loads(done.stdout)["artifacts"]
    report = json.loads((kept.get("report", artifacts["report"]).path() / "report.json").read_text())
    accuracy = {name: model["metrics"]["accuracy"] for name, model in report["models"].items()}
    assert report["primary_metric"] == "accuracy"
    assert accuracy["teacher"] > 0.9
    assert report["retention"]["value"] > 0.9
    assert report["kv_share"] is None
    assert report["models"]["student_int8"]["bytes"] < 6_000_000
    assert [stage["name"] for stage in report["stages"]] == ["soft_labels", "hidden_states"]
    bundle = predict.load(kept.get("bundle", artifacts["bundle"]).path())
    (answer,) = bundle.predict([{"text": "My card has not arrived yet, where is it?"}])
    assert answer.text == "card_arrival"
