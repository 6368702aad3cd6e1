"""Requests that were mined become training rows of the next round, pictures too; what no round repairs is refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster import pauses
from cluster.errors import DataError, InputError, MismatchError, StepFailed
from cluster.recipe import Recipe, load
from cluster.store import Artifact, Store, tables
from jobs import generate, tasks, watch
from jobs.after.watching import asked, mining, rounds
from jobs.data.answers import Answerer, labels_of
from serving.bundle.image_classes import Frame, read
from serving.traffic import verdicts
from serving.traffic.log import MEDIA
from serving.traffic.verdicts import Verdict

MakeRecipe = Callable[..., Recipe]
WATCHED = ["watch.rows_min=1", "watch.old_rows=3"]
TINY_PICTURES = [
    "teacher.params={stem: 8, widths: [12, 16], depths: [1, 1]}",
    "student.params={stem: 4, widths: [8, 12], strides: [1, 2]}",
    "generate.views={count: 1, shift: 0.1, mixed: 0.5}",
    "curate.filters=[{name: duplicate}, {name: diversity, params: {minimum: 0.9}}]",
    *WATCHED,
]


def alarm(model: str) -> Verdict:
    """Serving's verdict that quality fell."""
    known: dict[str, Any] = {"value": 0.8, "reference": 1.0, "drop": 0.2, "rows": 900}
    known |= {"window_start": 0, "window_end": 9000}
    return Verdict(9500, "drift", model, "1", "accuracy", "recurate", **known)


def served(store: Store, model: str, asked_: pa.Table, wrong: Callable[[Mapping[str, Any]], str | None]) -> None:
    """Traffic of version 1 as the gateway logs it; `wrong` says the wrong answer to a request, None: the right one."""
    rows = []
    for number, row in enumerate(asked_.to_pylist()):
        answer = wrong(row) or row["label_name"]
        rows.append({"request_id": f"r{number}", "at": 1000 + number, "model": model, "version": "1", "arm": "champion",
                     "prompt": row["prompt"] or None, **{name: row[name] for name in MEDIA}, "answer": answer,
                     "confidence": 0.9, "fell_back": False, "latency_ms": 1.0, "label": row["label_name"]})  # fmt: skip
    tables.append(store, "traffic", model, rows, 2000)


def built(store: Store, recipe: Recipe) -> Artifact:
    """The round that the alarm is answered by."""
    mined = mining.mine(store, recipe, alarm(recipe.promote.model_name))
    return rounds.build(store, recipe, mined, f"{recipe.promote.model_name}@champion", "v1")


def pictures_of(table: pa.Table) -> set[bytes]:
    """Pixels of all pictures of requests, in grey."""
    return {read(one, Frame(8, 1)).tobytes() for own in table["images"].to_pylist() for one in own}


def test_mined_questions_about_pictures_are_asked_in_the_slice_of_their_wording_and_none_shows_a_test_picture(
    tiny_digits: MakeRecipe, store: Store, tmp_path: Path
) -> None:
    recipe = tiny_digits(*WATCHED)
    fresh = tasks.of(tiny_digits("generate.seed=7", "generate.samples=300")).requests("train")
    seen = pa.concat_tables([fresh, tasks.of(recipe).requests("test")])
    served(store, "digits", seen, lambda row: {"after": "yes"}.get(row["slice"]))
    own = rounds.recipe_of(round_ := built(store, recipe))
    requests, held = generate.candidates(own), rounds.held_out(round_)
    mined = requests.filter(pa.array([one == asked.ORIGIN for one in requests["template"].to_pylist()]))
    after = mined.filter(pa.array(["comes after" in text for text in mined["prompt"].to_pylist()]))
    assert len(after) > 5 and set(after["slice"].to_pylist()) == {"after"}
    task = tasks.of(recipe)
    for split in ("validation", "test"):
        assert not pictures_of(task.requests(split)) & pictures_of(requests)
    assert not pictures_of(task.requests("test")) & pictures_of(pa.Table.from_pylist(held))
    assert round_.manifest.facts["learned"] == len(mined) and len(held) == len(mined) // 3
    old = requests.filter(pa.array([one is None for one in requests["parent"].to_pylist()])).slice(0, 30)
    assert old["slice"].value_counts().to_pylist() and not old["label_name"].null_count
    # The teacher is asked them, and what it says is packed, like any other request.
    (tmp_path / "teacher").mkdir()
    task.save(task.build(recipe.teacher, 0), tmp_path / "teacher")
    answers = Answerer(str(tmp_path / "teacher"), own.generate, str(tmp_path / "tally"))(mined)
    assert set(answers["status"].to_pylist()) == {"ok"}
    assert len(task.pack(answers, labels_of(answers), true_labels=False)["ids"]) == len(mined)


def test_mined_pictures_are_learned_from_beside_old_ones_of_every_class_and_no_gate_judges_so_few_as_a_set(
    store: Store,
) -> None:
    recipe = load("image_classification", TINY_PICTURES)
    own_rows = tasks.of(recipe).requests("train")
    views = own_rows.filter(pa.array([one == "moved" for one in own_rows["template"].to_pylist()])).slice(0, 200)
    served(store, recipe.promote.model_name, views, lambda row: "eight" if row["label_name"] == "three" else None)
    round_ = built(store, recipe)
    own = rounds.recipe_of(round_)
    requests = pq.read_table(own.generate.requests or "")
    counts = {row["values"]: row["counts"] for row in requests.slice(0, 30)["label_name"].value_counts().to_pylist()}
    assert set(counts.values()) == {3} and len(counts) == 10
    threes = [row for row in requests.slice(30).to_pylist() if row["label_name"] == "three"]
    assert threes and all(row["label"] == 3 and row["template"] == asked.ORIGIN for row in threes)
    held = rounds.held_out(round_)
    assert held and all(row["images"] and row["reference"] for row in held)
    assert [term.name for term in own.curate.filters] == ["duplicate"]
    assert own.data == recipe.data and own.distill.continue_from == "image_classification@champion"
    assert len(generate.candidates(own)) > len(requests)  # further views of the slice that failed


def test_a_round_is_named_by_what_its_requests_hold_and_other_recipes_as_before(
    tiny_digits: MakeRecipe, tmp_path: Path
) -> None:
    path, plain = tmp_path / "requests.parquet", tiny_digits()
    rows = tasks.of(plain).requests("train")
    pq.write_table(rows, path)
    own = tiny_digits(f"generate.requests={path}")
    generate.check(own)
    first = generate.STEP.id(own)
    pq.write_table(rows.slice(0, 40), path)
    assert generate.STEP.id(own) != first
    assert "requests" not in plain.generate.identity() and "requests" not in generate.STEP.section(plain)
    assert len(generate.candidates(tiny_digits(f"generate.requests={path}", "generate.samples=20"))) == 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slice": "nosuch"}, "unknown slice"),
        ({"split": "test"}, "rows of another split"),
        ({"sample_id": "0" * 16}, "stands twice"),
    ],
)
def test_requests_that_cannot_be_asked_are_refused_at_the_start(
    tiny_digits: MakeRecipe, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    path = tmp_path / "requests.parquet"
    rows = tasks.of(tiny_digits()).requests("train").slice(0, 4)
    pq.write_table(pa.Table.from_pylist([row | change for row in rows.to_pylist()], rows.schema), path)
    with pytest.raises(DataError, match=message):
        generate.check(tiny_digits(f"generate.requests={path}"))


def test_requests_without_a_column_or_a_file_are_refused(tiny_digits: MakeRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        generate.check(tiny_digits("generate.requests=nosuch.parquet"))
    pq.write_table(pa.table({"prompt": ["what"]}), tmp_path / "few.parquet")
    with pytest.raises(DataError, match="sample_id"):
        generate.check(tiny_digits(f"generate.requests={tmp_path / 'few.parquet'}"))


def test_pictures_that_were_not_kept_cannot_be_learned_from(tiny_digits: MakeRecipe, store: Store) -> None:
    recipe = tiny_digits(*WATCHED)
    asked_ = tasks.of(recipe).requests("train").slice(0, 20)
    bare = asked_.set_column(asked_.column_names.index("images"), "images", pa.nulls(20, pa.list_(pa.binary())))
    served(store, "digits", bare, lambda row: "seven")
    with pytest.raises(StepFailed, match=r"(?s)no request of version 1.*traffic\.media"):
        mining.mine(store, recipe, alarm("digits"))


def test_what_only_test_rows_show_is_no_round(tiny_digits: MakeRecipe, store: Store) -> None:
    recipe = tiny_digits(*WATCHED)
    served(store, "digits", tasks.of(recipe).requests("test"), lambda row: "seven")
    with pytest.raises(StepFailed, match=r"none of the .* can be learned from"):
        built(store, recipe)


def test_mined_videos_are_asked_again_in_the_slice_of_their_media(store: Store) -> None:
    small = ["data.params.clips={train: 200, validation: 40, test: 60}", *WATCHED]
    recipe = load("video", ["generate.samples=40", *small])
    task = tasks.of(recipe)
    assert "video" in task.media
    fresh = tasks.of(load("video", ["generate.samples=30", "generate.seed=7", *small])).requests("train")
    served(store, recipe.promote.model_name, fresh, lambda row: "nothing")
    own = rounds.recipe_of(round_ := built(store, recipe))
    mined = [row for row in generate.candidates(own).to_pylist() if row["template"] == asked.ORIGIN]
    known = {row["prompt"]: row for row in fresh.to_pylist()}
    assert mined and all(row["frames"] and row["fps"] == known[row["prompt"]]["fps"] for row in mined)
    assert {row["slice"] for row in mined} <= set(task.slices)
    assert all(row["frames"] and row["reference"] for row in rounds.held_out(round_))


def test_a_student_that_no_round_could_repair_is_refused_before_anything_is_paused(store: Store, quiet: Any) -> None:
    recipe = load("language_model", WATCHED)
    verdicts.append(store, alarm(recipe.promote.model_name))
    with pytest.raises(InputError, match="no round can repair this student"):
        watch.once(recipe, store, quiet)
    with pytest.raises(MismatchError, match="no round can repair this student"):
        watch.scheduled(recipe, store, quiet, "incremental")
    assert pauses.find(store, recipe.promote.model_name) is None
    assert store.read_record(f"watch/{recipe.promote.model_name}") is None


def test_a_scheduled_round_without_traffic_pauses_nothing(text_recipe: MakeRecipe, store: Store, quiet: Any) -> None:
    from cluster.registry import Registry

    registry = Registry.beside(store.workspace)
    version = registry.register("salad", "somewhere", {"artifact_id": "bundle-1", "run": "salad-1"})
    registry.set_alias("salad", "champion", version, expect=None)
    with pytest.raises(StepFailed, match="no request of version"):
        watch.scheduled(text_recipe(), store, quiet, "incremental")
    assert pauses.find(store, "salad") is None


def test_a_mined_row_is_asked_once_and_a_label_that_is_no_class_counts_as_unknown() -> None:
    recipe = load("image_classification", TINY_PICTURES)
    task = tasks.of(recipe)
    own = asked.own_requests(recipe)
    assert not np.isin(["mixed", "moved"], own["template"].to_pylist()).any()
    (picture,) = own["images"][0].as_py()
    row = {"prompt": "", **dict.fromkeys(MEDIA), "images": [picture], "label": "letter a", "reference": "letter a"}
    made = asked.mined(recipe, task, own, [row, row])
    assert len(made) == 1 and made["label"][0].as_py() is None and made["label_name"][0].as_py() is None


def test_where_no_true_answer_is_known_a_round_has_no_old_rows(tiny_digits: MakeRecipe) -> None:
    recipe = tiny_digits(*WATCHED)
    task, own = tasks.of(recipe), asked.own_requests(recipe)
    assert len(asked.old(recipe, task, own))
    at = own.column_names.index("label_name")
    unknown = own.set_column(at, own.field(at), pa.nulls(len(own), pa.string()))
    assert asked.old(recipe, task, unknown).equals(unknown.slice(0, 0))
