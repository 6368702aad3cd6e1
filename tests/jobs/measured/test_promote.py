"""Promotion: gates stop it, force is noted, one bundle is one version, and the first one is champion."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import GateFailed, StoreError
from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Artifact
from jobs import promote
from jobs.step import Step

Promote = Callable[..., tuple[Recipe, Artifact]]


@pytest.fixture(scope="module")
def registry_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for all tests of this file (making its tables takes seconds); every test has a model of its own."""
    return f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"


@pytest.fixture
def named(tiny_run: Any, report: Artifact, registry_uri: str) -> Callable[..., tuple[Recipe, Artifact]]:
    """Promote the finished run under a model name of its own."""

    def make(
        model_name: str, alias: str = "challenger", step: Step = promote.STEP, of: Artifact = report
    ) -> tuple[Recipe, Artifact]:
        section = tiny_run.recipe.promote.model_copy(
            update={"model_name": model_name, "alias": alias, "tracking_uri": registry_uri}
        )
        recipe = tiny_run.recipe.model_copy(update={"promote": section})
        return recipe, tiny_run.carry_out(step, recipe, bundle=tiny_run.artifacts["bundle"], report=of)

    return make


def test_the_first_model_becomes_champion_with_its_lineage(
    named: Promote, tiny_run: Any, report: Artifact, registry_uri: str
) -> None:
    _, promotion = named("first")
    facts = promotion.manifest.facts
    assert (facts["model"], facts["version"], facts["alias"], facts["forced"]) == ("first", 1, "champion", [])
    champion = Registry(registry_uri).alias("first", "champion")
    assert (
        champion is not None
        and champion.tags["artifact_id"] == tiny_run.artifacts["bundle"].id
        and champion.tags["report_id"] == report.id
    )
    assert {"teacher_id", "samples_id", "curated_id", "student_id", "control_id", "commit", "run"} <= set(champion.tags)
    assert (Path(champion.source) / "predict.py").is_file()


def test_a_bundle_promoted_again_is_the_same_version_and_stays_champion(named: Promote) -> None:
    for alias in ("challenger", "champion"):
        facts = named("twice", alias)[1].manifest.facts
        assert (facts["version"], facts["alias"]) == (1, "champion")


def test_a_later_version_gets_the_alias_of_the_recipe(registry_uri: str) -> None:
    registry = Registry(registry_uri)
    one, two, three = (registry.register("later", f"/b/{name}", {"artifact_id": name}) for name in "abc")
    assert promote.give_alias(registry, "later", one, "challenger") == "champion"
    assert promote.give_alias(registry, "later", two, "challenger") == "challenger"
    assert promote.give_alias(registry, "later", two, "challenger") == "challenger"
    assert promote.give_alias(registry, "later", three, "champion") == "champion"
    previous = registry.alias("later", "previous")
    assert previous is not None and previous.version == one


def test_a_failed_gate_stops_promotion_and_leaves_no_trace_and_force_is_noted(
    named: Promote, failing: Artifact, registry_uri: str
) -> None:
    with pytest.raises(GateFailed, match=r"bytes_max: \d+ \(limit 5"):
        named("stopped", of=failing)
    assert Registry(registry_uri).alias("stopped", "champion") is None
    facts = named("stopped", step=promote.overruling(True, []), of=failing)[1].manifest.facts
    assert facts["forced"] == ["bytes_max"] and facts["alias"] == "champion"


def test_a_registry_that_lost_a_version_is_noticed_and_the_repair_is_said(
    named: Promote, tiny_run: Any, registry_uri: str, tmp_path: Path
) -> None:
    recipe, promotion = named("lost")
    promote.confirm(recipe, tiny_run.store, promotion)
    copy = tmp_path / "mlflow.db"
    shutil.copy(Path(registry_uri.removeprefix("sqlite:///")), copy)
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{copy}").delete_registered_model("lost")
    moved = recipe.model_copy(
        update={"promote": recipe.promote.model_copy(update={"tracking_uri": f"sqlite:///{copy}"})}
    )
    with pytest.raises(
        StoreError, match=rf"(?s)lost 1.*remove .*promotion/{promotion.id} and run `python -m jobs promote` again"
    ):
        promote.confirm(moved, tiny_run.store, promotion)
