"""The teacher's answers: a bad row costs one row, and the soft labels that are stored are the ones that were given."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from cluster import schema
from cluster.recipe import Recipe, ResourcesSection
from cluster.store import Store
from jobs import fit, generate
from jobs.after.labels import inspect, show
from jobs.data.answers import Answerer
from jobs.data.labels import checks, reader
from jobs.tasks import soft_labels
from serving.bundle.answer import softmax
from serving.teachers import Reply


def with_images(requests: pa.Table, row: int, images: list[bytes]) -> pa.Table:
    values = requests["images"].to_pylist()
    values[row] = images
    at = requests.schema.get_field_index("images")
    return requests.set_column(at, requests.schema.field("images"), pa.array(values, pa.list_(pa.binary())))


def test_a_row_that_cannot_be_read_is_rejected_with_its_reason_and_the_others_are_answered(
    answerer: tuple[Any, pa.Table],
) -> None:
    teacher, requests = answerer
    answers = teacher(with_images(requests, 3, [b"no picture"]))
    assert answers.num_rows == requests.num_rows
    assert answers["sample_id"].to_pylist() == requests["sample_id"].to_pylist()
    rejected = answers.slice(3, 1).to_pylist()[0]
    assert (rejected["status"], rejected["reason"], rejected["logits"]) == ("rejected", "unreadable_image", None)
    assert "not a readable" in rejected["detail"]
    others = [row for row in range(answers.num_rows) if row != 3]
    assert set(answers["status"].take(others).to_pylist()) == {"ok"}
    assert answers["response"].take(others).null_count == 0


def test_an_answer_does_not_depend_on_its_batch(answerer: tuple[Any, pa.Table]) -> None:
    teacher, requests = answerer
    whole = teacher(requests)
    parts = pa.concat_tables([teacher(requests.slice(start, 7)) for start in range(0, requests.num_rows, 7)])
    assert parts["response"].equals(whole["response"])
    assert parts["confidence"].to_pylist() == pytest.approx(whole["confidence"].to_pylist(), abs=1e-5)


def test_sampling_draws_from_each_rows_own_stream(answerer: tuple[Any, pa.Table]) -> None:
    teacher, requests = answerer
    warm = requests.set_column(
        requests.schema.get_field_index("temperature"),
        requests.schema.field("temperature"),
        pa.array([1.0] * requests.num_rows, pa.float32()),
    )
    whole = teacher(warm)
    assert teacher(warm.slice(10, 5))["response"].to_pylist() == whole["response"].slice(10, 5).to_pylist()
    assert whole["response"].to_pylist() != teacher(requests)["response"].to_pylist()


def test_stored_soft_labels_are_the_teachers_up_to_their_rounding() -> None:
    rng = np.random.default_rng(0)
    replies = [
        Reply("x", 0.5, np.arange(n), rng.normal(0, 6, (n, 11)).astype(np.float32), rng.normal(0, 3, (n, 8)))
        for n in (1, 3, 2)
    ]
    rows = [soft_labels.record(f"{index:016d}", reply, keep_hidden=True) for index, reply in enumerate(replies)]
    labels = schema.conform(pa.Table.from_pylist(rows, schema.schema("soft_labels")), "soft_labels")
    columns = soft_labels.soft_columns(labels, positions=3)
    assert columns["teacher_logits"].shape == (3, 3, 11)
    for row, reply in enumerate(replies):
        given = columns["teacher_logits"][row, : len(reply.tokens)].astype(np.float32)
        for temperature in (1.0, 4.0):
            np.testing.assert_allclose(softmax(given / temperature), softmax(reply.logits / temperature), atol=2e-3)
        scale = columns["hidden_scale"][row, : len(reply.tokens), None]
        stored = columns["teacher_hidden"][row, : len(reply.tokens)] * scale
        assert (np.abs(stored - reply.hidden) <= scale / 2 + 1e-6).all()


def test_margins_are_the_gap_between_the_two_likeliest_answers() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]], np.float32))
    reply = Reply("x", 0.5, np.arange(2), logits, np.zeros((2, 4), np.float32))
    row = soft_labels.record("0" * 16, reply, keep_hidden=False)
    labels = schema.conform(pa.Table.from_pylist([row], schema.schema("soft_labels")), "soft_labels")
    assert soft_labels.margins(labels).tolist() == pytest.approx([(0.5 + 0.0) / 2], abs=2e-3)


@pytest.mark.slow
def test_ray_data_answers_every_request_once_and_a_second_pass_maps_nothing(
    answerer: tuple[Any, pa.Table], tiny_digits: Callable[..., Recipe], tmp_path: Path, ray_cluster: ResourcesSection
) -> None:

    _, requests = answerer
    pq.write_table(with_images(requests, 5, [b"bad"]), tmp_path / "requests.parquet")
    section = tiny_digits().generate
    generate.answer_all(tmp_path / "requests.parquet", tmp_path / "teacher", section, tmp_path)
    files = sorted(path.name for path in (tmp_path / generate.ANSWERS).glob("*.parquet"))
    answers = pq.read_table(tmp_path / generate.ANSWERS)
    assert sorted(answers["sample_id"].to_pylist()) == sorted(requests["sample_id"].to_pylist())
    assert answers["status"].to_pylist().count("rejected") == 1
    generate.answer_all(tmp_path / "requests.parquet", tmp_path / "teacher", section, tmp_path)
    assert sorted(path.name for path in (tmp_path / generate.ANSWERS).glob("*.parquet")) == files


@pytest.mark.slow
def test_a_killed_worker_a_bad_line_and_a_poisoned_row_change_no_answer_of_the_others(
    answerer: tuple[Any, pa.Table], tiny_digits: Callable[..., Recipe], tmp_path: Path, ray_cluster: ResourcesSection
) -> None:

    _, requests = answerer
    texts = requests["prompt"].to_pylist()
    texts[9] = poison = f"{texts[9]} poison"
    at = requests.schema.get_field_index("prompt")
    requests = requests.set_column(at, requests.schema.field("prompt"), pa.array(texts))
    pq.write_table(requests, tmp_path / "requests.parquet")
    marker = tmp_path / "killed"

    class Disturbed(Answerer):
        """Dies in its first call; afterwards every fifth call of the teacher raises, and one row always does."""

        def __call__(self, batch: pa.Table) -> pa.Table:
            if not marker.exists():
                marker.touch()
                os._exit(1)
            if not hasattr(self, "calls"):
                self.calls, real, read = 0, self.teacher.complete, self.teacher.prompt

                def complete(prompts: Any, temperature: float, seeds: Any) -> Any:
                    self.calls += 1
                    if self.calls % 5 == 0 or any(text == poison for text, _ in prompts):
                        raise ConnectionError("the line went dead")
                    return real([prompt for _, prompt in prompts], temperature, seeds)

                self.teacher.prompt = lambda item: (item["text"], read(item))
                self.teacher.complete = complete
            return super().__call__(batch)

    section = tiny_digits().generate
    found = {}
    for name, kind in (("calm", Answerer), ("disturbed", Disturbed)):
        (tmp_path / name).mkdir()
        generate.answer_all(tmp_path / "requests.parquet", tmp_path / "teacher", section, tmp_path / name, kind)
        found[name] = pq.read_table(tmp_path / name / generate.ANSWERS).sort_by("sample_id")
    assert marker.exists()
    said = ["sample_id", "response", "tokens"]
    rejected = [row for row in found["disturbed"].to_pylist() if row["status"] == "rejected"]
    assert [row["prompt"] for row in rejected] == [poison]
    assert rejected[0]["reason"] == "raised_ConnectionError" and rejected[0]["attempts"] > section.attempts
    both = [pc.not_equal(table["prompt"], poison) for table in found.values()]
    calm, disturbed = (table.filter(keep).select(said) for table, keep in zip(found.values(), both, strict=True))
    assert len(calm) == len(requests) - 1 and calm.equals(disturbed)


def test_a_teacher_that_drives_ray_answers_in_this_process_part_by_part(
    tiny_digits: Callable[..., Recipe], answerer: tuple[Answerer, pa.Table], tmp_path: Path
) -> None:
    teacher, requests = answerer
    pq.write_table(requests, tmp_path / "requests.parquet")
    section, asked = tiny_digits().generate, []

    def ask(batch: pa.Table) -> pa.Table:
        if len(asked) == 1:
            raise KeyboardInterrupt
        asked.append(len(batch))
        return teacher(batch)

    with pytest.raises(KeyboardInterrupt):
        generate.answer_here(tmp_path / "requests.parquet", section, tmp_path, lambda: ask)  # type: ignore[arg-type,return-value]
    asked += [0]
    generate.answer_here(tmp_path / "requests.parquet", section, tmp_path, lambda: ask)  # type: ignore[arg-type,return-value]
    assert sum(asked) == len(requests) and len(asked) == section.blocks + 1
    found = pq.read_table(tmp_path / generate.ANSWERS).sort_by("sample_id")
    said = ["sample_id", "response", "tokens"]
    assert found.select(said).equals(teacher(requests).sort_by("sample_id").select(said))


@pytest.mark.slow
def test_rounds_fill_the_artifact_and_the_same_requests_are_never_asked_again(
    tiny_digits: Callable[..., Recipe], store: Store, ray_cluster: ResourcesSection
) -> None:
    changes = ["fit.enabled=false", "generate.rounds=2", "generate.pool=1.5", "generate.samples=40",
               "generate.templates={plain: '{{ text }}', twice: '{{ text }} {{ text }}'}",
               "generate.labels={form: sampled, draws: 16}"]  # fmt: skip
    recipe = tiny_digits(*changes)
    fit.STEP.run(recipe, store)
    first = generate.STEP.run(recipe, store)
    facts = first.manifest.facts
    assert (facts["requested"], facts["answered"], facts["reused"]) == (40, 40, 0)
    assert facts["labelled"] == 40 and facts["bytes_per_token"]["label"] > 0
    assert checks.problems(first.path()) == []
    pairs = list(reader.stream(first.path(), 16))
    assert [len(samples) for samples, _ in pairs] == [16, 16, 8]
    assert all(samples["sample_id"].equals(labels["sample_id"]) for samples, labels in pairs)
    again = generate.STEP.run(tiny_digits(*changes, "generate.blocks=3"), store)
    assert again.id != first.id and again.manifest.facts["reused"] == 40
    for name in (reader.SAMPLES, reader.LABELS):
        assert pq.read_table(again.path() / name).equals(pq.read_table(first.path() / name))
    store.write_record("runs/tiny", {"artifacts": {"samples": first.id, "teacher": fit.STEP.id(recipe)}})
    shown = inspect(store, "latest", 3)
    assert shown["problems"] == [] and len(shown["rows"]) == 3
    assert all(one["likeliest"][0]["probability"] > 0 for row in shown["rows"] for one in row["positions"])
    console = Console(file=io.StringIO(), width=200)
    show(console, shown)
    assert "bytes per token on disk" in console.file.getvalue()  # type: ignore[attr-defined]
