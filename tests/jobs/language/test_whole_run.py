"""The language model recipe as a user starts it, on fewer rows: from the library's source to a student's report.

Students that write are served in `tests/serving/deployment/test_streams.py`.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.store import Store

ROOT = Path(__file__).resolve().parents[3]
FEWER = {
    "data.max_rows": 120,
    "data.params": "{max_tokens: 32, vocabulary: 600, max_new_tokens: 6}",
    "fit.engine.workers": 1,
    "fit.stages.0.epochs": 1,
    "distill.control": "false",
    "distill.stages.0.epochs": 1,
    "distill.stages.1.epochs": 1,
    "evaluate.max_rows": 24,
    "evaluate.latency_requests": 20,
    "evaluate.gates": "{retention_min: null, above_control: null, int8_drop_max: null, int8_agreement_min: null}",
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_language_model_goes_from_texts_to_a_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jobs", "run", "language_model", "--until", "promote"]
    command += ["--store", str(tmp_path / "store"), "--json"]
    command += [word for name, value in FEWER.items() for word in ("--set", f"{name}={value}")]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    folder = Store.open(tmp_path / "store").get("report", told["artifacts"]["report"]).path()
    report = json.loads((folder / "report.json").read_text())
    assert report["kv_share"] == 0.5
    assert all(model["metrics"]["perplexity"] > 1 for model in report["models"].values())
    assert report["transfer"]["cka"]["pairs"] and report["transfer"]["agreement_by_confidence"] == []
    assert "Layers that see rows alike" in (folder / "report.html").read_text()
