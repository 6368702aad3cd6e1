"""Evaluate on a tiny run: the report's contract, every model on the same rows, a control arm that may be missing."""

import io
from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster.errors import ArtifactMissing, RecipeError
from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs import distill, evaluate, tasks
from jobs.after.report import Report, show
from jobs.measure import beyond

CONTRACT = {
    "run", "recipe", "commit", "models", "primary_metric", "retention", "int8", "kv_share", "param_share", "stages",
    "curation", "gates", "seconds", "speedup", "control_gain", "dead_letters", "not_measured", "evaluate_seconds",
    "engines",
    *beyond.PARTS,
}  # fmt: skip


@pytest.fixture(scope="module")
def values(report: Artifact) -> dict[str, Any]:
    return evaluate.report_of(report)


def test_the_report_holds_every_key_of_the_contract(values: dict[str, Any]) -> None:
    assert set(values) >= CONTRACT
    assert list(values["models"]) == ["teacher", "student", "student_int8", "control", "baseline"]
    for model in values["models"].values():
        assert next(iter(model["metrics"])) == "exact_match" and model["params"] >= model["params_non_embedding"] >= 0
    assert set(values["retention"]) == {"value", "low", "high"} and values["retention"]["low"] is not None
    assert set(values["int8"]) == {"task_drop", "agreement", "logit_error"}
    assert [stage["name"] for stage in values["stages"]] == ["soft_labels", "hidden_states", "fusion"]
    assert {"name", "limit", "value", "passed"} <= set(values["gates"][0])
    assert set(values["seconds"]) == {"fit", "generate", "curate", "distill", "control", "export", "evaluate"}


def test_merged_heads_halve_the_cache_and_int8_keeps_the_shape(values: dict[str, Any]) -> None:
    models = values["models"]
    assert values["kv_share"] == 0.5
    assert (
        models["student"]["kv_bytes_per_token"]
        == models["student_int8"]["kv_bytes_per_token"]
        == models["control"]["kv_bytes_per_token"]
    )
    assert models["student_int8"]["bytes"] < models["student"]["bytes"] < models["teacher"]["bytes"]
    assert values["param_share"] == models["student"]["params"] / models["teacher"]["params"]


def test_every_engine_is_timed_but_the_control_arm(values: dict[str, Any]) -> None:
    timed = {name: model["latency_ms"] for name, model in values["models"].items()}
    assert timed.pop("control") is None
    assert all(set(one) == {"p50", "p95", "p99"} for one in timed.values())
    assert values["speedup"] == timed["teacher"]["p50"] / timed["student_int8"]["p50"]


def test_the_metrics_are_those_of_the_stored_predictions(
    values: dict[str, Any], report: Artifact, tiny_run: Any
) -> None:
    table = pq.read_table(report.path() / "predictions.parquet").to_pydict()
    requests = tasks.of(tiny_run.recipe).requests("test")
    assert (
        table["sample_id"] == requests["sample_id"].to_pylist() and table["truth"] == requests["label_name"].to_pylist()
    )
    for name, model in values["models"].items():
        right = [given == true for given, true in zip(table[name], table["truth"], strict=True)]
        assert model["metrics"]["exact_match"] == pytest.approx(sum(right) / len(right))
    assert all(0 < confidence <= 1 for confidence in table["student_int8_confidence"])


def test_the_same_inputs_are_one_report_and_another_gate_or_name_is_another(tiny_recipe: Callable[..., Recipe]) -> None:
    ids = {
        evaluate.STEP.id(tiny_recipe(*change))
        for change in ((), ("evaluate.gates.bytes_max=5",), ("name=other",), ("resources.cpus=1",))
    }
    assert len(ids) == 3


def test_a_recipe_without_a_control_arm_has_a_report_without_one(
    tiny_run: Any, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe("distill.control=false", "evaluate.bootstrap=0", "evaluate.max_rows=20")
    found = evaluate.report_of(tiny_run.carry_out(evaluate.STEP, recipe))
    assert "control" not in found["models"] and found["control_gain"] is None
    assert "above_control" not in {gate["name"] for gate in found["gates"]}
    assert found["rows"] == 20 and found["retention"]["low"] is None


def test_a_control_arm_that_was_asked_for_and_is_not_there_is_named(
    tiny_run: Any, tiny_recipe: Callable[..., Recipe]
) -> None:
    recipe = tiny_recipe("distill.batch_size=7")
    with pytest.raises(ArtifactMissing, match=f"no control {distill.CONTROL.id(recipe)}"):
        tiny_run.carry_out(evaluate.STEP, recipe)


def test_every_part_is_measured_or_says_why_not_and_what_it_took(values: dict[str, Any]) -> None:
    assert list(values["evaluate_seconds"]) == list(beyond.PARTS)
    absent = {name for name in beyond.PARTS if values[name] is None}
    assert absent == {"fairness", "written"} and absent <= set(values["not_measured"])
    assert {"gate_fairness_gap_max", "champion"} <= set(values["not_measured"])
    gates = {gate["name"]: gate for gate in values["gates"]}
    assert gates["memory_max_bytes"]["passed"] and gates["licence_allows"]["value"] is True
    assert gates["golden_agreement_min"]["value"] == values["golden"]["with_float"]


def test_slices_intervals_and_classes_are_those_of_the_same_answers(values: dict[str, Any]) -> None:
    int8 = values["models"]["student_int8"]
    assert values["intervals"]["student_int8"]["exact_match"]["value"] == int8["metrics"]["exact_match"]
    assert {one["name"]: one["student_int8"] for one in values["slices"]["slice"]} == int8["slices"]
    assert sum(one["support"] for one in values["per_class"]["student_int8"]["classes"]) == values["rows"]
    assert values["calibration"]["student_int8"]["temperature"]["value"] > 0
    assert sum(one["rows"] for one in values["transfer"]["agreement_by_confidence"]) == values["rows"]


def test_golden_samples_lie_beside_the_report(values: dict[str, Any], report: Artifact) -> None:
    table = pq.read_table(report.path() / "golden.parquet").to_pydict()
    same = [a == b for a, b in zip(table["student"], table["student_int8"], strict=True)]
    assert len(same) == values["golden"]["rows"] and sum(same) / len(same) == values["golden"]["with_float"]


def test_noise_money_and_devices_are_told_for_the_served_student(values: dict[str, Any]) -> None:
    assert {one["kind"] for one in values["robustness"]["kinds"]} == {
        "gaussian_noise", "brightness", "occlusion", "typos"
    }  # fmt: skip
    cost = values["money"]["per_1000"]
    assert 0 < cost["student"] <= cost["student_with_deferrals"] and cost["teacher"] > 0
    assert [one["profile"] for one in values["edge"]] == ["rpi4"] and values["edge"][0]["fits"]
    assert set(values["cost"]["engines"]) == {"teacher", "student", "student_int8"}


def test_engines_of_the_recipe_stand_beside_the_served_one_on_the_same_rows(
    tiny_run: Any, tiny_recipe: Callable[..., Recipe], values: dict[str, Any]
) -> None:
    assert values["engines"] is None and "evaluate.engines" in values["not_measured"]["engines"]
    recipe = tiny_recipe(
        "evaluate.engines={openvino: [static], torch: [float32]}", "evaluate.edge=[]", "evaluate.max_rows=20",
        "evaluate.robustness=null", "evaluate.calibration_rows=0", "evaluate.golden_rows=8", "evaluate.transfer_rows=0",
    )  # fmt: skip
    artifact = tiny_run.carry_out(evaluate.STEP, recipe)
    found = evaluate.report_of(artifact)
    rows, served = found["engines"], found["models"]["student_int8"]
    assert list(rows) == ["student_int8", "openvino_static", "torch_float32"]
    assert rows["student_int8"]["metrics"] == served["metrics"]
    assert rows["student_int8"]["latency_ms"] == served["latency_ms"]
    assert rows["student_int8"]["agreement_float"] == found["int8"]["agreement"]
    assert rows["torch_float32"]["agreement_float"] == 1.0 and rows["torch_float32"]["engine"].startswith("torch 2.")
    assert all(set(one["latency_ms"]) == {"p50", "p95", "p99"} and one["bytes"] > 0 for one in rows.values())
    assert all(type(one["batch_invariant"]) is bool for one in rows.values())
    assert set(found["cost"]["engines"]) == {"teacher", "student", *rows}
    assert set(found["models"]) == {"teacher", "student", "student_int8", "control", "baseline"}
    text = (artifact.path() / "report.html").read_text()
    assert "Engines side by side" in text and "openvino 2026" in text
    stream = io.StringIO()
    Console(file=stream, width=160).print(show(Report(found, artifact.path())))
    assert "exact (served)" in stream.getvalue() and "torch 2." in stream.getvalue()


def test_what_cannot_be_looked_at_is_refused_before_anything_runs(tiny_recipe: Callable[..., Recipe]) -> None:
    evaluate.check(tiny_recipe())
    with pytest.raises(RecipeError, match="unknown device"):
        evaluate.check(tiny_recipe("evaluate.edge=[toaster]"))
    with pytest.raises(RecipeError, match="slice_columns"):
        evaluate.check(tiny_recipe("evaluate.slice_columns=[weather]"))
    with pytest.raises(RecipeError, match=r"(?s)fairness\.positive.*task with classes"):
        evaluate.check(tiny_recipe("evaluate.fairness={templates: none.csv, positive: good}"))
