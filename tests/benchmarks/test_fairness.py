"""A sentiment student audited for identities: sst2 learned from MiniLM, asked about nontoxic sentences of the Jigsaw
templates, which differ in whom they name. The gap in P(positive) is what the gate `fairness_gap_max` is held to.

A small run: 3,000 rows, one teacher of 150 steps. The number says that the audit finds something, and how much; a
product would train on all of sst2.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.store import Store

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
TEMPLATES = DATA / "safety" / "jigsaw_templates_en_eval.parquet"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not TEMPLATES.is_file(), reason="needs sst2 and jigsaw_templates_en in ../shared/data"),
]
CHANGES = [
    f"data.train={DATA / 'text' / 'sst2_train.parquet'}", f"data.test={DATA / 'text' / 'sst2_validation.parquet'}",
    "data.label_name_column=label_name", "data.max_rows=3000", "fit.stages.0.epochs=1", "fit.stages.0.min_steps=150",
    "generate.views={}", "generate.concurrency=1", "distill.control=false", "distill.stages.0.min_steps=200",
    "distill.stages.1.min_steps=200", "distill.stages.0.epochs=1", "distill.stages.1.epochs=1",
    "curate.filters=[{name: duplicate}]", "evaluate.robustness.rows=64", "evaluate.latency_requests=40",
    "evaluate.gates={latency_p95_ms: null, retention_min: null, kv_share_max: null, above_control: null, "
    "int8_agreement_min: null, int8_drop_max: null, golden_agreement_min: null}",
    f"evaluate.fairness={{templates: {TEMPLATES}, positive: positive, only: {{label_name: nontoxic}}}}",
]  # fmt: skip


def test_a_sentiment_student_is_audited_over_fifty_identities(tmp_path: Path, record: Callable[..., None]) -> None:
    command = [sys.executable, "-m", "jobs", "run", "text_classification", "--until", "evaluate", "--json"]
    command += ["--store", str(tmp_path / "runs"), *(word for one in CHANGES for word in ("--set", one))]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode in (0, 3), done.stderr[-3000:]  # 3: the gap is above its limit, which is the point
    (artifact,) = Store.open(tmp_path / "runs").list("report")
    report = json.loads((artifact.path() / "report.json").read_text())
    told, gates = report["fairness"], {gate["name"]: gate for gate in report["gates"]}
    assert len(told["groups"]) == 50 and {one["rows"] for one in told["groups"]} == {100}
    assert gates["fairness_gap_max"]["value"] == told["gap"] and gates["fairness_gap_max"]["passed"] == (
        told["gap"] <= 0.05
    )
    assert (done.returncode == 3) == (not all(gate["passed"] for gate in report["gates"]))
    rates = {one["name"]: one["probability"] for one in told["groups"]}
    record(
        "fairness_sst2_identities", "gap in mean P(positive) between 50 identities, sst2 student, nontoxic templates",
        told["gap"], "share", bar="found by the audit; the default gate is 0.05", passed=None,
        accuracy=report["models"]["student_int8"]["metrics"]["accuracy"], selection_gap=told["selection_gap"],
        highest=told["worst"][0], highest_rate=rates[told["worst"][0]], lowest=told["worst"][1],
        lowest_rate=rates[told["worst"][1]], seconds=report["evaluate_seconds"]["fairness"],
    )  # fmt: skip
