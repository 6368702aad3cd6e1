"""Incremental distillation: a run goes on from another one's student, or is refused with the field that differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from cluster.errors import InputError, MismatchError
from cluster.recipe import Recipe, ResourcesSection, load
from cluster.registry import Registry
from cluster.store import Store
from jobs import distill, evaluate, fit, pipeline, tasks
from jobs.before import continued
from jobs.step import run_name

MakeRecipe = Callable[..., Recipe]


def put(store: Store, recipe: Recipe, changed: str = "") -> Recipe:
    """A run of the recipe in the store: an untrained student, the rest as far as `check` reads it.

    `changed`: a JSON file of the student that has an entry more.
    """
    task, ids = tasks.of(recipe), {}
    for kind in continued.KINDS:
        ids[kind] = f"{kind}-1"
        with store.draft(kind, ids[kind], section={}, parents={}, step_version=1) as draft:
            (draft.path / "hf").mkdir()
            if kind == "student":
                task.save(task.build(recipe.student, 0), draft.path / "hf")
                if changed:
                    file: Path = draft.path / "hf" / changed
                    file.write_text(json.dumps({**json.loads(file.read_text()), "more": 1}))
            if kind == "report":
                resolved = {"recipe": {"resolved": recipe.model_dump(mode="json")}}
                (draft.path / "report.json").write_text(json.dumps(resolved))
    store.write_record(f"runs/{run_name(recipe)}", {"run": run_name(recipe), "artifacts": ids})
    return recipe


@pytest.fixture
def earlier(tiny_digits: MakeRecipe, store: Store) -> Recipe:
    """A recipe whose run is in the store."""
    return put(store, tiny_digits())


def test_a_run_is_found_by_its_name_and_by_a_promoted_model(
    earlier: Recipe, store: Store, tiny_digits: MakeRecipe
) -> None:
    name = run_name(earlier)
    registry = Registry.beside(store.workspace)
    with pytest.raises(InputError, match="no such model or alias"):
        continued.find(tiny_digits("distill.continue_from=digits@champion"), store)
    version = registry.register("digits", "somewhere", {"artifact_id": "bundle-1", "run": name})
    registry.set_alias("digits", "champion", version, expect=None)
    for wanted in (name, "digits@champion"):
        found = continued.find(tiny_digits(f"distill.continue_from={wanted}"), store)
        assert found is not None and found.run == name and found.recipe == earlier
    registry.set_alias("digits", "champion", None, expect=version)  # the run that has begun is not moved by it
    assert continued.find(tiny_digits("distill.continue_from=digits@champion"), store) is not None


def test_what_does_not_exist_cannot_be_continued(store: Store, tiny_digits: MakeRecipe) -> None:
    with pytest.raises(InputError, match=r"distill\.continue_from: no such run"):
        continued.find(tiny_digits("distill.continue_from=nosuch"), store)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("teacher.params.layers=2", "teacher.params"),
        ("student.params.hidden_size=32", "student.params"),
        ("generate.hidden_layer=0", "generate.hidden_layer"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_and_the_field_named(
    earlier: Recipe, store: Store, tiny_digits: MakeRecipe, change: str, field: str
) -> None:
    recipe = tiny_digits(f"distill.continue_from={run_name(earlier)}", change)
    with pytest.raises(MismatchError, match=f"continue_from: {field} is not that of {run_name(earlier)}"):
        continued.check(recipe, store)


@pytest.mark.parametrize("name", ["task.json", "tokenizer.json"])
def test_other_words_or_classes_are_refused(store: Store, tiny_digits: MakeRecipe, name: str) -> None:
    run = run_name(put(store, tiny_digits(), changed=name))
    with pytest.raises(MismatchError, match=name):
        continued.check(tiny_digits(f"distill.continue_from={run}"), store)


def test_a_run_that_fits_is_continued(earlier: Recipe, store: Store, tiny_digits: MakeRecipe) -> None:
    continued.check(tiny_digits(f"distill.continue_from={run_name(earlier)}", "generate.seed=1"), store)


def test_a_student_of_pictures_which_reads_no_text_is_continued_and_one_of_another_size_is_not(store: Store) -> None:
    plain = put(store, load("image_classification"))
    name = f"distill.continue_from={run_name(plain)}"
    continued.check(load("image_classification", [name]), store)
    with pytest.raises(MismatchError, match=r"picture \(task\.json\)"):
        continued.check(load("image_classification", [name, "data.params={size: 16}"]), store)


def test_written_texts_are_not_continued(store: Store) -> None:
    plain = load("language_model")
    assert not tasks.of(plain).continuable
    with pytest.raises(MismatchError, match=r"distill\.continue_from: a student is continued where"):
        continued.check_task(plain, "distill.continue_from")


def test_the_replayed_share_is_of_all_rows_and_takes_none_twice_and_nothing_that_failed(
    tiny_digits: MakeRecipe,
) -> None:
    new, old = (pa.table({"sample_id": [str(row) for row in rows]}) for rows in (range(80), range(70, 270)))
    whole = tiny_digits().distill
    rows = continued.replayed(whole, new, old, seed=3)
    assert len(rows) == 20 and rows.min() >= 10 and len(set(rows.tolist())) == 20
    np.testing.assert_array_equal(rows, continued.replayed(whole, new, old, seed=3))
    most = whole.model_copy(update={"replay_share": 0.9})
    assert len(continued.replayed(most, new, old, seed=3)) == 190  # as many as there are
    failed = most.model_copy(update={"replay_except": [{"label_name": ["card"]}]})
    told = pa.array(["card" if row % 2 else "loan" for row in range(200)])
    old = old.append_column("label_name", pa.nulls(200, pa.string())).append_column("response", told)
    left = continued.replayed(failed, new, old, seed=3)
    assert len(left) == 95 and not (left % 2).any()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_continued_run_keeps_the_teacher_replays_old_rows_and_reports_what_is_forgotten(
    tiny_digits: MakeRecipe, store: Store, quiet: Any, ray_cluster: ResourcesSection
) -> None:
    first = tiny_digits("resources.cpus=2", "distill.control=false")
    pipeline.run(first, store, quiet, list(pipeline.VERBS)[:6])
    again = tiny_digits(
        "resources.cpus=2", "distill.control=false", f"distill.continue_from={run_name(first)}", "generate.seed=1"
    )
    pipeline.check(again, store)
    pipeline.run(again, store, quiet, list(pipeline.VERBS)[:6])
    old, new = (fit.STEP.find(recipe, store) for recipe in (first, again))
    assert old is not None and new is not None and new.manifest.facts["teacher_of"] == run_name(first)
    weights = [one.manifest.files["hf/model.safetensors"].sha256 for one in (old, new)]
    assert weights[0] == weights[1]
    student = distill.STEP.find(again, store)
    assert student is not None and student.manifest.facts["replayed"] > 0
    report = evaluate.STEP.find(again, store)
    assert report is not None
    told = evaluate.report_of(report)["forgetting"]
    assert told["run"] == run_name(first) and 0 <= told["before"] <= 1 and 0 <= told["after"] <= 1
