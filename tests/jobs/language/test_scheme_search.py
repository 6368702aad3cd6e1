"""`export.scheme: auto` on a real bundle: the limits decide, and the artifact tells what was tried."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.errors import ArtifactMissing
from cluster.recipe import Recipe
from cluster.store import Store
from jobs import distill, export, fit, tasks
from serving.bundle import predict


@pytest.fixture
def exported(language: Callable[..., Recipe], store: Store) -> Callable[..., dict[str, Any]]:
    """The facts and the folder of a bundle made from random weights under changed knobs."""

    def make(**changes: Any) -> dict[str, Any]:
        recipe = language(**changes)
        task = tasks.of(recipe)
        for seed, (step, section) in enumerate(((fit.STEP, recipe.teacher), (distill.STEP, recipe.student))):
            inputs = step.section(recipe)
            with store.draft(step.kind, step.id(recipe), section=inputs, parents={}, step_version=step.version) as made:
                if made.done:
                    continue
                network = task.build(section, seed)
                for number, parameter in enumerate(network.parameters()):
                    if parameter.ndim > 1:  # two equal layers would be merged
                        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(number))
                (made.path / "hf").mkdir()
                task.save(network, made.path / "hf")
        bundle = export.STEP.run(recipe, store)
        return {**bundle.manifest.facts, "folder": bundle.path()}

    return make


def test_the_first_scheme_that_holds_is_exported_and_the_curve_is_kept(exported: Callable[..., dict[str, Any]]) -> None:
    loose = {"evaluate.gates.int8_agreement_min": 0.5, "evaluate.gates.int8_drop_max": 0.9}
    facts = exported(**{"export.scheme": "auto", **loose})
    told = facts["quantization"]
    assert (facts["scheme"], told["chosen"], told["excluded"], told["sensitivity"]) == ("fast", "fast", [], [])
    assert [one["name"] for one in told["curve"]] == ["fast"]
    assert told["limits"]["int8_agreement_min"] == 0.5
    assert told["metric"] == "likelihood"
    assert told["bytes_float32"] > told["curve"][0]["bytes"] == facts["bytes"]


def test_layers_are_left_out_when_no_scheme_holds_and_float32_is_the_end(
    exported: Callable[..., dict[str, Any]],
) -> None:
    strict = {"evaluate.gates.logit_error_max": 1e-6}
    facts = exported(**{"export.scheme": ["exact", "weights"], **strict})
    told = facts["quantization"]
    assert told["chosen"] == facts["scheme"] == "float32"
    names = [one["name"] for one in told["curve"]]
    assert names[:2] == ["exact/32", "weights"]
    assert names[2].endswith("but 1 layers")
    assert names[-1] == "float32"
    assert all(one["broke"] == ["logit_error_max"] for one in told["curve"][:-1] if one["agreement"] == 1.0)
    errors = [one["logit_error"] for one in told["curve"][1:]]
    assert errors[-1] == 0.0
    assert {one["layer"].partition(":")[0] for one in told["sensitivity"]} == {"decoder"}
    assert len(told["sensitivity"]) == 6  # qkv, out, gate, up, down of one layer, and the head
    folder: Path = facts["folder"]
    assert predict.load(folder).spec["scheme"] == "float32"
    assert predict.self_test(folder)["same_bits"] == facts["golden"]


def test_a_bundle_says_what_it_was_made_from(exported: Callable[..., dict[str, Any]]) -> None:
    facts = exported(**{"export.golden": 3})
    spec = predict.verify(facts["folder"])
    assert facts["golden"] == 3
    lineage = spec["lineage"]
    assert lineage["run"].startswith("language-")
    assert set(lineage["artifacts"]) == {"student", "teacher", "bundle"}
    assert lineage["artifacts"]["bundle"] == facts["folder"].parent.name
    assert spec["engine"]["version"]


def test_ranges_come_from_the_curated_set_or_not_at_all(exported: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(ArtifactMissing, match="curated"):
        exported(**{"export.scheme": "static"})
