"""From weights to what is served: a bundle that continues texts alone, and the numbers its report is made of."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.recipe import Recipe
from cluster.store import Artifact, Store
from jobs import distill, export, fit
from jobs.measure import beyond, exam, gates, next_tokens
from jobs.tasks.text_generation.task import TextGeneration
from serving.bundle import predict


@pytest.fixture
def exported(
    language: Callable[..., Recipe], store: Store, widened: Callable[[Any], Any]
) -> tuple[Recipe, Store, Artifact]:
    """The bundle that `jobs export` makes of networks with random weights, everything else real."""
    recipe = language()
    task = TextGeneration(recipe)
    for step, section in ((fit.STEP, recipe.teacher), (distill.STEP, recipe.student)):
        inputs = step.section(recipe)
        with store.draft(step.kind, step.id(recipe), section=inputs, parents={}, step_version=step.version) as draft:
            (draft.path / "hf").mkdir()
            network = widened(task.build(section, 0))
            task.save(task.merge_kv(network, 2) if step is distill.STEP else network, draft.path / "hf")
            (draft.path / "unmerged.json").write_text(json.dumps({"kv_bytes_per_token": task.kv_bytes(network)}))
    return recipe, store, export.STEP.run(recipe, store)


def test_a_bundle_continues_a_text_alone_and_every_model_is_scored_on_the_true_text(
    exported: tuple[Recipe, Store, Artifact], tmp_path: Path
) -> None:
    recipe, store, bundle = exported
    copied = tmp_path / "elsewhere"
    shutil.copytree(bundle.path(), copied, ignore=shutil.ignore_patterns("float32", "teacher"))
    command = [sys.executable, str(copied / "predict.py"), "--text", "the cat sat"]
    ran = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, check=True)
    (here,) = predict.load(bundle.path()).predict([{"text": "the cat sat"}])
    assert json.loads(ran.stdout) == {"text": here.text, "confidence": here.confidence, "probabilities": None}
    assert bundle.manifest.facts["batch_invariant"]

    student, teacher = (store.get(step.kind, step.id(recipe)).path() for step in (distill.STEP, fit.STEP))
    models = {"teacher": teacher / "hf", "student": student / "hf", "control": student / "hf"}
    rows = exam.of(TextGeneration(recipe).requests("test"), None, 0)
    section = recipe.evaluate.model_copy(
        update={"latency_requests": 20, "bootstrap": 100, "fresh_requests": 4, "edge": ["mcu"]}
    )
    quick = recipe.model_copy(update={"evaluate": section})
    beside = {"onnxruntime_float32": bundle.path() / "float32"}
    asked, report = next_tokens.examine(quick, rows, models, bundle.path(), student, beside)
    assert list(asked) == list(report["models"]) == ["teacher", "student", "student_int8", "control", "baseline"]
    seen = {name: model["metrics"] for name, model in report["models"].items()}
    assert seen["teacher"]["agreement"] == 1.0
    assert seen["control"]["perplexity"] == seen["student"]["perplexity"]
    value = seen["teacher"]["perplexity"] / seen["student_int8"]["perplexity"]
    assert report["retention"]["value"] == pytest.approx(value)
    assert set(report["engines"]) == {"student_int8", "onnxruntime_float32"}
    assert report["engines"]["onnxruntime_float32"]["agreement_float"] > 0.99
    assert report["engines"]["student_int8"]["metrics"] == seen["student_int8"]
    assert report["kv_share"] == 0.5
    assert report["param_share"] < 1
    beyond.measure(beyond.Setting(quick, store, rows, asked, {}, {"teacher": teacher, "student": student, "bundle":
                   bundle.path()}, beside, TextGeneration(recipe).requests, report, tmp_path))  # fmt: skip
    judged = {gate["name"]: gate["value"] for gate in gates.judge(report, recipe.evaluate.gates, True)}
    assert judged["retention_min"] == report["retention"]["value"]
    assert judged["golden_agreement_min"] == report["golden"]["with_float"] >= 0.9
    assert set(report["written"]) == {"rows", "teacher", "student", "student_int8"}
    assert all(0 <= report["written"]["student"][name] <= 1 for name in ("bleu", "exact_match"))
    assert len(report["transfer"]["cka"]["matrix"]) == report["transfer"]["cka"]["student_layers"] == 1
    assert report["per_class"] is None and "next tokens" in report["not_measured"]["per_class"]
    assert json.dumps(report, allow_nan=False)
