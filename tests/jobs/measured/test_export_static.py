"""Static INT8 of a decoder and its picture tower: ranges from the calls that curated rows make, token by token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx

from cluster.recipe import Recipe
from jobs import export
from jobs.packing import calibration
from serving.bundle import predict


def test_ranges_come_from_the_curated_set_of_the_run(tiny_run: Any, tiny_recipe: Callable[..., Recipe]) -> None:
    items = calibration.curated_items(*(tiny_run.artifacts[kind].path() for kind in ("samples", "curated")))
    kept = tiny_run.artifacts["curated"].manifest.facts["kept"]
    assert 0 < len(items) <= kept
    calls = calibration.recorded(tiny_run.artifacts["bundle"].path() / "float32", items[:8])
    assert set(calls) == {"vision", "decoder"}
    assert {feeds["past_0"].shape[2] == 0 for feeds in calls["decoder"]} == {True, False}
    bundle = tiny_run.carry_out(export.STEP, tiny_recipe("export.scheme=static"))
    facts = bundle.manifest.facts
    assert facts["scheme"] == "static"
    assert facts["quantization"]["curve"][0]["logit_error"] < 0.5
    kinds = {node.op_type for node in onnx.load(str(bundle.path() / "decoder.onnx")).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert set(predict.verify(bundle.path())["lineage"]["artifacts"]) >= {"samples", "curated", "student", "teacher"}
