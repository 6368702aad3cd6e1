"""Answers are compared by the measure of their task, and never held against a value of another measure."""

import json
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import InputError
from cluster.recipe import Recipe
from cluster.registry import Registry
from cluster.store import Store
from serving.monitoring import watcher
from serving.monitoring.likeness import likeness, measure
from serving.seams.observe import CHAMPION
from serving.traffic import verdicts

ROOT = Path(__file__).resolve().parents[3]


def test_written_texts_are_likened_by_bleu_and_all_else_by_being_the_same() -> None:
    assert measure("text_generation") == "bleu"
    assert {measure(task) for task in ("text_classification", "visual_qa", "retrieval")} == {"same"}
    assert likeness("visual_qa", " seven ", "seven") == 1.0
    assert likeness("visual_qa", "seven", "seven cats") == 0.0
    assert likeness("text_generation", "the cat sat on the old mat", "the cat sat on the old mat") == 1.0
    assert 0.7 < likeness("text_generation", "the cat sat on the old sofa", "the cat sat on the old mat") < 0.9
    assert likeness("text_generation", "a dog ran", "the cat sat on the old mat") < 0.1


def promoted(store: Store, task: str) -> None:
    """Version 1 of the model `m`: a bundle of this task, and the report on it as `jobs evaluate` writes it."""
    with store.draft("bundle", "b" * 16, section={}, parents={}, step_version=1) as draft:
        (draft.path / "bundle.json").write_text(json.dumps({"task": task}))
    primary = "likelihood" if task == "text_generation" else "accuracy"
    measured = {"models": {"student_int8": {"metrics": {primary: 0.8, "agreement": 0.97}}}, "primary_metric": primary}
    with store.draft("report", "c" * 16, section={}, parents={"bundle": "b" * 16}, step_version=1) as draft:
        (draft.path / "report.json").write_text(json.dumps(measured))
    folder = str(store.get("bundle", "b" * 16).path())
    assert Registry.beside(store.workspace).register("m", folder, {"artifact_id": "b" * 16}) == 1


def test_classes_are_held_against_the_report_and_texts_against_their_own_first_window(tmp_path: Path) -> None:
    found = {}
    for task in ("text_classification", "text_generation"):
        store = Store.open(tmp_path / task)
        promoted(store, task)
        found[task] = watcher.spec(store, "m", "1")["args"]
    assert [one["task"] for one in found.values()] == list(found)
    assert found["text_classification"]["references"] == {"agreement": 0.97, "accuracy": 0.8}
    assert found["text_generation"]["references"] == {}  # the report's 0.97 is of next tokens, judged is BLEU


def test_a_student_that_writes_as_it_did_is_left_alone_and_one_that_writes_worse_is_rolled_back(
    live: Callable[..., Any], store: Store
) -> None:
    async def scenario(world: Any) -> None:
        for _ in range(12):  # five windows of 100
            await world.second(50)
        state = await world.monitor.state()
        assert state["measure"] == "bleu"
        assert 0.6 < state["arms"][0]["agreement"]["value"] < 0.9  # far below any share of equal answers
        assert state["drift"]["quality"]["agreement"]["drop"] < 0.05
        assert world.calls == []
        world.rates[CHAMPION] = 0.5
        await world.until(lambda: ("rollback", {}) in world.calls)

    live(scenario, {CHAMPION: 1.0}, task="text_generation")
    fell = [one for one in verdicts.read(store, "m") if one.metric == "agreement"]
    assert sorted(one.decision for one in fell) == ["recurate", "rollback"]


def test_without_sacrebleu_a_writing_student_is_refused_before_it_is_watched(
    tmp_path: Path, recipe_values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "texts")
    promoted(store, "text_generation")
    args = watcher.spec(store, "m", "1")["args"]
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(InputError, match="sacrebleu is not installed"):
        watcher.spec(store, "m", "1")
    with pytest.raises(InputError, match=r"raydistill\[serve\]"):
        watcher.open_observer(args, None)  # type: ignore[arg-type]
    off = Recipe.parse(recipe_values | {"experiment": {"enabled": False}})
    assert watcher.spec(store, "m", "1", off)["args"]["task"] == "text_generation"  # nothing is judged


def test_the_extra_that_serves_brings_what_texts_are_judged_by() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = {name: [one for one in extras[name] if one.startswith("sacrebleu")] for name in ("serve", "eval")}
    assert len(pins["serve"]) == 1
    assert pins["serve"] == pins["eval"]
