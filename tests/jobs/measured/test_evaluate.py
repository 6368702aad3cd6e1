"""Evaluate on a tiny run: the report's contract, every model on the same rows, a control arm that may be missing."""

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from cluster.errors import ArtifactMissing
from cluster.recipe import Recipe
from cluster.store import Artifact
from jobs import distill, evaluate, tasks

CONTRACT = {
    "run", "recipe", "commit", "models", "primary_metric", "retention", "int8", "kv_share", "param_share", "stages",
    "curation", "gates", "seconds", "speedup", "control_gain", "dead_letters",
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
