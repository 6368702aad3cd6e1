"""Answers are taken over from the same teacher and from no other: what differs is named."""

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import schema
from cluster.errors import ArtifactMismatch, ArtifactMissing
from cluster.recipe import GenerateSection, Recipe
from cluster.store import Artifact, Store
from jobs import tasks
from jobs.data import reuse
from jobs.data.answers import ANSWER_SCHEMA, Answerer, labels_of
from jobs.data.labels import reader


@pytest.fixture
def teacher(tiny_digits: Callable[..., Recipe], store: Store) -> Artifact:
    return made_teacher(store, tiny_digits(), "a" * 16)


def made_teacher(store: Store, recipe: Recipe, aid: str, seed: int = 0, words: str = "") -> Artifact:
    task = tasks.of(recipe)
    with store.draft("teacher", aid, section={"seed": seed}, parents={}, step_version=1) as draft:
        (draft.path / "hf").mkdir()
        task.save(task.build(recipe.teacher, seed), draft.path / "hf")
        tokenizer = draft.path / "hf" / "tokenizer.json"
        tokenizer.write_text(tokenizer.read_text() + words)
    return draft.artifact


def answered(store: Store, recipe: Recipe, teacher: Artifact, requests: pa.Table, folder: Path) -> Artifact:
    """The `samples` artifact of these requests, as `jobs generate` writes it."""
    answers = Answerer(str(teacher.path() / "hf"), recipe.generate, str(folder))(requests)
    aid = hashlib.sha256(repr((teacher.id, len(requests))).encode()).hexdigest()[:16]
    with store.draft("samples", aid, section={}, parents={"teacher": teacher.id}, step_version=2) as draft:
        samples = answers.append_column("teacher", pa.array([teacher.id] * len(answers)))
        pq.write_table(schema.conform(samples.sort_by("sample_id"), "samples"), draft.path / reader.SAMPLES)
        reader.write(labels_of(answers.sort_by("sample_id")), draft.path / reader.LABELS)
        draft.note(identity=reuse.identity(teacher, recipe.generate))
    return draft.artifact


def test_answers_that_are_there_are_taken_over_and_the_rest_is_left_to_ask(
    tiny_digits: Callable[..., Recipe], store: Store, teacher: Artifact, tmp_path: Path
) -> None:
    recipe = tiny_digits()
    requests = tasks.of(recipe).requests("train")
    samples = answered(store, recipe, teacher, requests.slice(0, 40), tmp_path)
    found = reuse.find(store, recipe.generate, reuse.identity(teacher, recipe.generate))
    assert [artifact.id for artifact in found] == [samples.id]
    taken = reuse.answered(requests, found)
    assert sorted(taken["sample_id"].to_pylist()) == sorted(requests["sample_id"].slice(0, 40).to_pylist())
    fresh = Answerer(str(teacher.path() / "hf"), recipe.generate, str(tmp_path))(requests.slice(0, 40))
    for name in (*requests.column_names, "response", "tokens", "status"):
        assert taken.sort_by("sample_id")[name].to_pylist() == fresh.sort_by("sample_id")[name].to_pylist(), name
    assert set(taken.column_names) == {*requests.column_names, *ANSWER_SCHEMA.names}


@pytest.mark.parametrize(
    ("field", "change"),
    [("teacher", {"seed": 1}), ("tokenizer", {"words": "\n"})],
)
def test_another_teacher_or_tokenizer_is_refused_with_the_field_that_differs(
    field: str, change: dict[str, Any], tiny_digits: Callable[..., Recipe], store: Store, teacher: Artifact,
    tmp_path: Path, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    recipe = tiny_digits()
    samples = answered(store, recipe, teacher, tasks.of(recipe).requests("train").slice(0, 3), tmp_path)
    other = reuse.identity(made_teacher(store, recipe, "b" * 16, **change), recipe.generate)
    with caplog.at_level(logging.INFO):
        assert reuse.find(store, recipe.generate, other) == []
    assert f"{samples.id} are not taken over: {field} differs" in caplog.text
    asked_for = recipe.generate.model_copy(update={"reuse": samples.id})
    with pytest.raises(ArtifactMismatch, match=field):
        reuse.find(store, asked_for, other)


def test_templates_and_label_forms_are_part_of_the_identity(teacher: Artifact) -> None:
    plain = GenerateSection(templates={"a": "{{ text }}"})
    own = reuse.identity(teacher, plain)
    more = GenerateSection(templates={"a": "{{ text }}", "b": "{{ text }}?"})
    changed = GenerateSection(templates={"a": "{{ text }}!"})
    form = GenerateSection.parse({"templates": {"a": "{{ text }}"}, "labels": {"form": "top_k"}})
    assert reuse.differing(own, reuse.identity(teacher, more)) is None
    assert reuse.differing(own, reuse.identity(teacher, changed)) == "templates.a"
    assert reuse.differing(own, reuse.identity(teacher, form)) == "labels"


def test_never_takes_nothing_and_an_unknown_artifact_is_missing(store: Store, teacher: Artifact) -> None:
    own = reuse.identity(teacher, GenerateSection())
    assert reuse.find(store, GenerateSection(reuse="never"), own) == []
    with pytest.raises(ArtifactMissing):
        reuse.find(store, GenerateSection(reuse="f" * 16), own)
